//! Hedged requests (Dean and Barroso, "The Tail at Scale", CACM 2013): a request that waits longer than 95 of
//! 100 earlier ones is sent a second time, over another connection, and the first good response counts. A
//! step waits for its slowest response, so one slow replica behind an address would slow down every step.
//!
//! A single engine gains nothing from hedging, because the second request queues behind the first. So at most
//! a small share of the requests is sent twice, and none to a server that computes with one thread.

use std::collections::VecDeque;
use std::time::Duration;

/// Number of the most recent latencies that are kept.
const WINDOW: usize = 1000;
/// Fewer latencies say too little about the 95th percentile.
const ENOUGH: usize = 100;
/// One of this many requests may be sent twice.
const ONE_OF: usize = 20;

/// A server's latencies, and counts of its hedged requests.
#[derive(Debug, Default)]
pub struct HedgeLog {
    latencies: VecDeque<Duration>,
    /// Requests, without hedges.
    asked: usize,
    hedged: usize,
    /// Hedged requests whose second response came first.
    won: usize,
    /// Value of `hedged` at the last message.
    told: usize,
}

impl HedgeLog {
    pub fn ask(&mut self, requests: usize) {
        self.asked += requests;
    }

    pub fn answered(&mut self, latency: Duration) {
        if self.latencies.len() == WINDOW {
            self.latencies.pop_front();
        }
        self.latencies.push_back(latency);
    }

    /// The 95th percentile of the latencies; `None` while too few are known.
    pub fn hedge_delay(&self) -> Option<Duration> {
        if self.latencies.len() < ENOUGH {
            return None;
        }
        let mut sorted: Vec<Duration> = self.latencies.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() - 1 - sorted.len() / ONE_OF).copied()
    }

    /// Whether one more request may be sent twice; if so, counts it.
    pub fn hedge(&mut self) -> bool {
        let allowed = (self.hedged + 1) * ONE_OF <= self.asked;
        self.hedged += usize::from(allowed);
        allowed
    }

    pub fn second_was_first(&mut self) {
        self.won += 1;
    }

    /// `3 of 400 requests were sent a second time, ...`, if the number has grown since the last message.
    pub fn take_message(&mut self) -> Option<String> {
        let HedgeLog { asked, hedged, won, told, .. } = *self;
        self.told = hedged;
        (hedged > told).then(|| {
            format!(
                "{hedged} of {asked} requests were sent a second time, because they took longer than 95% \
                of earlier requests; {won} of the second requests were answered first"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_95th_percentile_of_the_latest_latencies_is_waited_for() {
        let mut log = HedgeLog::default();
        for milliseconds in 1..100 {
            log.answered(Duration::from_millis(milliseconds));
        }
        assert_eq!(log.hedge_delay(), None);
        log.answered(Duration::from_millis(100));
        assert_eq!(log.hedge_delay(), Some(Duration::from_millis(95)));
        (0..WINDOW).for_each(|_| log.answered(Duration::from_millis(7)));
        assert_eq!((log.hedge_delay(), log.latencies.len()), (Some(Duration::from_millis(7)), WINDOW));
    }

    #[test]
    fn one_request_of_twenty_is_sent_twice_at_most() {
        let mut log = HedgeLog::default();
        log.ask(39);
        assert!(log.hedge() && !log.hedge());
        log.ask(1);
        assert!(log.hedge() && !log.hedge());
        log.second_was_first();
        let told = log.take_message().unwrap();
        assert!(
            told.starts_with("2 of 40 requests")
                && told.ends_with("1 of the second requests were answered first")
        );
        assert_eq!(log.take_message(), None);
    }
}
