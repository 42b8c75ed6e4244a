//! Tests with threads in place of processes, connected in the same way.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use super::*;

/// Runs `work` on `size` connected threads and returns their results by rank.
pub fn among<T: Send>(size: usize, work: impl Fn(&Peers) -> T + Sync) -> Vec<T> {
    let secret = RunSecret::new();
    let meeting = Rendezvous::new(size, secret).unwrap();
    let port = meeting.port();
    std::thread::scope(|scope| {
        let (work, mut threads) = (&work, Vec::new());
        for rank in 1..size {
            threads.push(scope.spawn(move || work(&Rendezvous::join(port, rank, size, secret).unwrap())));
        }
        let first = work(&meeting.first(|| Ok(())).unwrap());
        std::iter::once(first).chain(threads.into_iter().map(|thread| thread.join().unwrap())).collect()
    })
}

/// Numbers whose sum depends on the order of addition.
fn number(rank: usize, place: usize) -> f32 {
    [1e8, 1.0, -1e8, 3.0e-3][(rank + place) % 4] + place as f32
}

/// Also tests parts of unequal length, fewer numbers than processes, and no numbers.
#[test]
fn sums_are_made_in_the_order_of_the_processes() {
    for size in 2..5 {
        for length in [0, 1, 3, 10, 1001] {
            let sums = among(size, |peers| {
                let own: Vec<f32> = (0..length).map(|place| number(peers.rank(), place)).collect();
                let (mut part, mut whole) = (vec![f32::NAN; length], vec![f32::NAN; length]);
                let put = |range: Range<usize>, numbers: &[f32]| part[range].copy_from_slice(numbers);
                peers.reduce_scatter(length, |range| own[range].to_vec(), put).unwrap();
                let owned = peers.shard(length);
                assert!(part.iter().enumerate().all(|(at, sum)| sum.is_nan() != owned.contains(&at)));
                let own = |range: Range<usize>| part[range].to_vec();
                let put = |range: Range<usize>, numbers: &[f32]| whole[range].copy_from_slice(numbers);
                peers.all_gather_parts(length, own, put).unwrap();
                let mut first = Vec::new();
                peers.gather_parts(length, own, |_, numbers| first.extend_from_slice(numbers)).unwrap();
                assert_eq!(first, if peers.is_first() { whole.as_slice() } else { &[] });
                let doubles: Vec<f64> = (0..length).map(|place| number(peers.rank(), place).into()).collect();
                (whole, peers.all_reduce(&doubles).unwrap())
            });
            let in_order = |place| (1..size).fold(number(0, place), |sum, rank| sum + number(rank, place));
            let expected: Vec<f32> = (0..length).map(in_order).collect();
            let wide = |place| (0..size).fold(0.0, |sum, rank| sum + f64::from(number(rank, place)));
            for (sum, double) in sums {
                assert_eq!(sum, expected, "{size} {length}");
                assert_eq!(double, (0..length).map(wide).collect::<Vec<f64>>());
            }
        }
    }
}

/// A vector of more than one piece, so that a sum takes several rounds.
#[test]
fn long_vectors_are_summed_piece_by_piece() {
    let length = 2 * PIECE + 2 * 7 + 1;
    let own = |rank: usize, range: Range<usize>| range.map(|at| (at % 1000 + rank) as f32).collect();
    let parts = among(2, |peers| {
        let mut sums = Vec::new();
        let part = |range| own(peers.rank(), range);
        peers.reduce_scatter(length, part, |_, numbers| sums.extend_from_slice(numbers)).unwrap();
        sums
    });
    let parts = parts.concat();
    assert_eq!(parts.len(), length);
    assert!(parts.iter().enumerate().all(|(at, sum)| *sum == (2 * (at % 1000) + 1) as f32));
}

#[test]
fn all_gather_and_broadcast_reach_every_process() {
    let all = among(3, |peers| {
        let own = vec![peers.rank() as u8; 2 * peers.rank()];
        peers.barrier().unwrap();
        let said = peers.broadcast(1, format!("{}", peers.rank()).as_bytes()).unwrap();
        (peers.all_gather(&own).unwrap(), said, peers.is_first(), peers.lost())
    });
    for (rank, (gathered, said, first, lost)) in all.into_iter().enumerate() {
        assert_eq!(gathered, [vec![], vec![1, 1], vec![2, 2, 2, 2]]);
        assert_eq!((said.as_slice(), first, lost), (b"1".as_slice(), rank == 0, None));
    }
}

/// Larger than a connection's buffers: sending must not wait for the other side to finish sending.
#[test]
fn large_messages_cross() {
    let bytes = vec![7; 30 << 20];
    let all = among(2, |peers| peers.all_gather(&bytes).unwrap().iter().map(Vec::len).sum::<usize>());
    assert_eq!(all, [60 << 20, 60 << 20]);
}

#[test]
fn exit_of_one_process_is_seen_by_all() {
    let said = among(3, |peers| {
        peers.barrier().unwrap();
        if peers.rank() == 2 {
            return String::new();
        }
        let error = peers.all_gather(&vec![1; 10 << 20]).unwrap_err();
        assert!(peers.lost().is_some());
        assert!(peers.barrier().is_err(), "and it does not come back");
        error.to_string()
    });
    // The message may name the process that ended, or one that closed because it saw that first.
    assert!(said[0].contains("of 3 was lost"), "{}", said[0]);
    assert!(said[1].contains("of 3 was lost"), "{}", said[1]);
}

/// Another thread of a process may look at its connections and close them while it waits for a message.
#[test]
fn a_waiting_process_can_be_released() {
    let (closed, waits) = (std::sync::Barrier::new(2), std::time::Duration::from_millis(50));
    let said = among(2, |peers| {
        if peers.rank() == 1 {
            closed.wait();
            return String::new();
        }
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| peers.barrier().unwrap_err().to_string());
            std::thread::sleep(waits);
            assert_eq!(peers.lost(), None);
            peers.close();
            closed.wait();
            waiting.join().unwrap()
        })
    });
    assert!(said[0].contains("process 1 of 2 was lost"), "{}", said[0]);
}

#[test]
fn processes_at_different_places_are_told_apart() {
    let said = among(2, |peers| match peers.rank() {
        0 => peers.barrier().unwrap_err().to_string(),
        _ => peers.all_gather(b"x").unwrap_err().to_string(),
    });
    assert!(said.iter().any(|said| said.contains("it is at collective 1 of kind")), "{said:?}");
    let said = among(2, |peers| {
        let count = 3 + peers.rank();
        peers.all_reduce(&vec![1.0; count]).unwrap_err().to_string()
    });
    assert!(said[0].contains("4 numbers to add to 3"), "{said:?}");
}

/// A port scanner, a browser or a process without the secret does not end the wait for peers.
#[test]
fn connections_without_the_secret_are_ignored() {
    let secret = RunSecret::new();
    let meeting = Rendezvous::new(2, secret).unwrap();
    let port = meeting.port();
    std::thread::scope(|scope| {
        let joined = scope.spawn(move || {
            let knock = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            drop(knock());
            let mut browser = knock();
            browser
                .write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\nConnection: close\r\n\r\n")
                .unwrap();
            let mut answer = Vec::new();
            // Whether the read fails or not, nothing was sent.
            let _ = browser.read_to_end(&mut answer);
            assert_eq!(answer, b"");
            let Err(refused) = Rendezvous::join(port, 1, 2, RunSecret::new()) else {
                panic!("without the secret")
            };
            assert!(refused.to_string().contains("process 1 of 2 cannot join"), "{refused}");
            Rendezvous::join(port, 1, 2, secret).unwrap().all_gather(b"b").unwrap()
        });
        let peers = meeting.first(|| Ok(())).unwrap();
        assert_eq!(peers.all_gather(b"a").unwrap(), [b"a", b"b"]);
        assert_eq!(joined.join().unwrap(), [b"a", b"b"]);
    });
}

#[test]
fn another_version_is_refused_on_both_sides() {
    let secret = RunSecret::new();
    let meeting = Rendezvous::new(2, secret).unwrap();
    let port = meeting.port();
    std::thread::scope(|scope| {
        let came = scope.spawn(move || super::join::tests::join_with_version(port, secret, 99));
        let Err(refused) = meeting.first(|| Ok(())) else { panic!("it is of another version") };
        assert!(refused.to_string().contains("version 99"), "{refused}");
        assert_eq!(came.join().unwrap(), super::join::VERSION, "it is told which one this is");
    });
}

/// The wait for peers ends with the error of `check`.
#[test]
fn rendezvous_ends_with_the_error_of_check() {
    let meeting = Rendezvous::new(2, RunSecret::new()).unwrap();
    assert!(matches!(meeting.first(|| Err(Error::Interrupted)), Err(Error::Interrupted)));
}
