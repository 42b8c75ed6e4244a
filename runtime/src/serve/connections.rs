//! Connections of the server, of which there are at most a number that file descriptors suffice for. If one
//! more comes, the one that has waited longest without a complete request is closed: clients that send half a
//! request and wait can't keep others out.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// Most open connections.
const MOST: usize = 512;
/// Pause after a failure to accept a connection, such as too many open files.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections.
pub struct Connections {
    listener: TcpListener,
    open: OpenConnections,
    next: u64,
}

/// The open connections by age.
type OpenConnections = Arc<Mutex<BTreeMap<u64, OpenConnection>>>;

struct OpenConnection {
    /// Complete requests that are not answered yet.
    requests: usize,
    /// Dropped to close the connection.
    _close: oneshot::Sender<()>,
}

/// A connection as its requests know it.
#[derive(Clone)]
pub struct ConnectionHandle {
    open: OpenConnections,
    number: u64,
}

/// Counts a request that is complete, until it is dropped.
pub struct RunningRequest(ConnectionHandle);

/// The bytes of a connection, which end when it is to be closed.
pub struct ConnectionStream {
    stream: TcpStream,
    closed: oneshot::Receiver<()>,
    handle: ConnectionHandle,
}

impl Connections {
    pub fn new(listener: TcpListener) -> Connections {
        Connections { listener, open: Arc::default(), next: 0 }
    }
}

impl Listener for Connections {
    type Io = ConnectionStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (ConnectionStream, SocketAddr) {
        let (stream, address) = loop {
            match self.listener.accept().await {
                Ok(accepted) => break accepted,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        let (close, closed) = oneshot::channel();
        let number = self.next;
        self.next += 1;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MOST {
            let idle =
                open.iter().find(|(_, connection)| connection.requests == 0).map(|(number, _)| *number);
            // Where all are busy, the oldest of them: its client can ask again.
            let oldest = idle.or_else(|| open.keys().next().copied());
            oldest.map(|number| open.remove(&number));
        }
        open.insert(number, OpenConnection { requests: 0, _close: close });
        drop(open);
        let handle = ConnectionHandle { open: self.open.clone(), number };
        (ConnectionStream { stream, closed, handle }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Connections>> for ConnectionHandle {
    fn connect_info(stream: IncomingStream<'_, Connections>) -> ConnectionHandle {
        stream.io().handle.clone()
    }
}

impl ConnectionHandle {
    fn count(&self, change: impl FnOnce(&mut usize)) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = open.get_mut(&self.number) {
            change(&mut connection.requests);
        }
    }

    /// To be called when a request has arrived in full.
    pub fn run(&self) -> RunningRequest {
        self.count(|requests| *requests += 1);
        RunningRequest(self.clone())
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.count(|requests| *requests -= 1);
    }
}

impl Drop for ConnectionStream {
    fn drop(&mut self) {
        let ConnectionHandle { open, number } = &self.handle;
        open.lock().unwrap_or_else(PoisonError::into_inner).remove(number);
    }
}

impl ConnectionStream {
    fn is_closed(&mut self, context: &mut Context<'_>) -> bool {
        Pin::new(&mut self.closed).poll(context).is_ready()
    }
}

impl AsyncRead for ConnectionStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_closed(context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for ConnectionStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
