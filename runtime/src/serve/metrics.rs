//! The Prometheus metrics at `/metrics`.

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

pub struct Metrics {
    registry: Registry,
    pub requests: IntCounterVec,
    pub seconds: HistogramVec,
    pub tokens: IntCounterVec,
    pub waiting: IntGauge,
    pub running: IntGauge,
}

impl Metrics {
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let requests = IntCounterVec::new(
            Opts::new("mopd_requests_total", "Requests that were answered."),
            &["path", "status"],
        );
        let seconds = HistogramVec::new(
            HistogramOpts::new("mopd_request_seconds", "From a request to its answer.")
                .buckets(vec![0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0]),
            &["path"],
        );
        let tokens = IntCounterVec::new(
            Opts::new("mopd_tokens_total", "Tokens that were scored, and that were written."),
            &["what"],
        );
        let waiting = IntGauge::new("mopd_requests_waiting", "Requests that wait for the model.");
        let running = IntGauge::new("mopd_requests_running", "Requests whose completions are written.");
        let known = "names and labels are sound";
        let (requests, seconds) = (requests.expect(known), seconds.expect(known));
        let (tokens, waiting) = (tokens.expect(known), waiting.expect(known));
        let running = running.expect(known);
        for collector in [
            Box::new(requests.clone()) as Box<dyn prometheus::core::Collector>,
            Box::new(seconds.clone()),
            Box::new(tokens.clone()),
            Box::new(waiting.clone()),
            Box::new(running.clone()),
        ] {
            registry.register(collector).expect("each has a name of its own");
        }
        Metrics { registry, requests, seconds, tokens, waiting, running }
    }

    pub fn text(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("text can be written");
        String::from_utf8(text).expect("it is text")
    }
}
