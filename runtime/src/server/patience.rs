//! A connection that is given up when its client does not read.
//!
//! A reply that nobody reads holds its tensors and a connection. While the system takes no more bytes a moment is set at
//! which patience ends; each byte taken puts it off by what [`SERVER_WRITE_RATE_MIN`] allows for it, and everything
//! taken sets it aside.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use crate::limits::SERVER_WRITE_RATE_MIN;

/// A connection, and when its client has to have read on.
pub(super) struct Patient {
    stream: TcpStream,
    grace: Duration,
    /// Set while there is something to write that the system does not take.
    due: Option<Pin<Box<Sleep>>>,
    is_over: bool,
}

impl Patient {
    /// With so long for a client to read on.
    pub(super) fn new(stream: TcpStream, grace: Duration) -> Self {
        Self { stream, grace, due: None, is_over: false }
    }

    /// The connection, unless its client was given up.
    pub(super) fn into_inner(self) -> Option<TcpStream> {
        (!self.is_over).then_some(self.stream)
    }

    /// Takes what a write came to.
    fn wrote(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match (wrote, &mut self.due) {
            (Poll::Ready(Ok(bytes)), Some(due)) => {
                let more = Duration::from_secs_f64(bytes as f64 / SERVER_WRITE_RATE_MIN as f64);
                let at = due.deadline() + more;
                due.as_mut().reset(at);
                Poll::Ready(Ok(bytes))
            }
            (Poll::Pending, due) => {
                ready!(due.get_or_insert_with(|| Box::pin(sleep(self.grace))).as_mut().poll(cx));
                self.is_over = true;
                Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the client does not read its reply")))
            }
            (wrote, _) => wrote,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called once everything was taken.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.due = None;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
