//! HTTP for a page of this machine: each connection gets one answer. No body of a request is read into
//! memory, and a head has a limit of size and time, so that no request can stop the server.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes of a request's head.
const LONGEST: usize = 16 << 10;
/// The time for a head to arrive, and for an answer to be read.
const LIMIT: Duration = Duration::from_secs(10);
/// Connections that are read or answered at a time; others are closed.
const MOST: usize = 128;

/// The requests that arrive at a port of this machine.
pub struct PageRequests {
    pub address: SocketAddr,
    arrived: Receiver<PageRequest>,
}

/// A request, without its body.
pub struct PageRequest {
    pub method: String,
    pub url: String,
    pub host: Option<String>,
    connection: OpenPage,
}

/// An answer.
pub struct PageAnswer {
    pub status: u16,
    pub kind: &'static str,
    pub body: String,
}

/// A connection, counted until it is dropped.
struct OpenPage {
    stream: TcpStream,
    count: Arc<AtomicUsize>,
}

impl Drop for OpenPage {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PageRequests {
    pub fn at(port: u16) -> io::Result<PageRequests> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = listener.local_addr()?;
        let (sender, arrived) = sync_channel(MOST);
        // Ends with the process.
        thread::Builder::new().name("requests".to_owned()).spawn(move || accept(&listener, &sender))?;
        Ok(PageRequests { address, arrived })
    }

    /// The next request, if one arrives in this time.
    pub fn next(&self, within: Duration) -> Option<PageRequest> {
        self.arrived.recv_timeout(within).ok()
    }
}

fn accept(listener: &TcpListener, sender: &SyncSender<PageRequest>) {
    let count = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // Too many open files.
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        if count.fetch_add(1, Ordering::Relaxed) >= MOST {
            count.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let connection = OpenPage { stream, count: count.clone() };
        let sender = sender.clone();
        // Without a thread, the connection is closed.
        let _ = thread::Builder::new().name("request".to_owned()).spawn(move || {
            if let Some(request) = read(connection) {
                let _ = sender.send(request);
            }
        });
    }
}

/// Reads the head of a request; `None` if it does not arrive, or is none.
fn read(mut connection: OpenPage) -> Option<PageRequest> {
    let (until, mut head, mut piece) = (Instant::now() + LIMIT, Vec::new(), [0; 2048]);
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > LONGEST {
            return None;
        }
        connection.stream.set_read_timeout(Some(left)).ok()?;
        match connection.stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => head.extend_from_slice(&piece[..count]),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, url) = (words.next()?.to_owned(), words.next()?.to_owned());
    let host = lines.take_while(|line| !line.is_empty()).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("host").then(|| value.trim().to_owned())
    });
    Some(PageRequest { method, url, host, connection })
}

impl PageRequest {
    /// Sends the answer and closes the connection, without waiting for it.
    pub fn respond(self, answer: PageAnswer) {
        let connection = self.connection;
        let _ = thread::Builder::new().name("answer".to_owned()).spawn(move || {
            // A browser that closes the connection early does not matter.
            let _ = write(&connection.stream, &answer);
        });
    }
}

fn write(mut stream: &TcpStream, PageAnswer { status, kind, body }: &PageAnswer) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        204 => "No Content",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Internal Server Error",
    };
    let length = match status {
        204 => String::new(),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    let allow = if *status == 405 { "Allow: GET\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\n{length}{allow}Content-Type: {kind}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    );
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    // A connection that is closed before its request is read loses the answer.
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    io::copy(&mut stream.take(1 << 20), &mut io::sink()).map(drop)
}
