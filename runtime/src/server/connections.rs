//! Connections: accepting, serving and ending them.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::header;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::backend::Backend;
use super::http::{Site, router};
use super::options::{Ended, ServeError, ServerOptions, check};
use super::patience::Patient;
use crate::limits::{
    SERVER_ACCEPT_RETRY, SERVER_CONNECTIONS_MAX, SERVER_DRAIN_POLL, SERVER_LINGER, SERVER_LINGER_BYTES_MAX,
};

/// Serves the backend's tenants to whoever connects, until `shutdown` is ready. Then readiness goes at once; after the
/// drain delay no more connections and requests are taken; what is in flight has the drain timeout to finish and is
/// cancelled after it.
///
/// Runs on a tokio runtime with its timers and sockets enabled. Long texts are read and written on its blocking
/// threads: as many at once as the runtime has of those (`max_blocking_threads`), which should be few beside engines.
///
/// # Errors
/// The tenants cannot be expressed in the protocol. No request was taken then.
pub async fn serve(
    backend: Arc<dyn Backend>,
    listener: TcpListener,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<Ended, ServeError> {
    check(backend.tenants())?;
    let site = Arc::new(Site::new(backend.clone(), options));
    let mut connections = Connections::new(router(site.clone()), options);
    connections.accept_until(&listener, shutdown).await;
    site.end();
    connections.accept_until(&listener, sleep(options.drain_delay)).await;
    drop(listener);
    backend.drain();
    Ok(connections.drain(&*backend, options).await)
}

/// Connections that are open.
struct Connections {
    router: Router,
    options: ServerOptions,
    tasks: JoinSet<()>,
    free: Arc<Semaphore>,
    /// Turns true once connections have to end after the request they are in.
    ends: watch::Sender<bool>,
}

impl Connections {
    fn new(router: Router, options: ServerOptions) -> Self {
        let free = Arc::new(Semaphore::new(SERVER_CONNECTIONS_MAX));
        Self { router, options, tasks: JoinSet::new(), free, ends: watch::Sender::new(false) }
    }

    /// Takes connections until `end` is ready. Beyond the most there may be, clients wait in the system's queue.
    async fn accept_until(&mut self, listener: &TcpListener, end: impl Future<Output = ()>) {
        let mut end = pin!(end);
        loop {
            let free = self.free.clone();
            let next = async {
                let place = free.acquire_owned().await.expect("the semaphore is never closed");
                (listener.accept().await, place)
            };
            tokio::select! {
                () = &mut end => return,
                // Tasks that are done are forgotten as they end. One that panicked has closed its connection.
                Some(_) = self.tasks.join_next() => {}
                (accepted, place) = next => match accepted {
                    Ok((stream, _)) => {
                        let serving = connection(stream, self.router.clone(), self.options, self.ends.subscribe());
                        self.tasks.spawn(async move {
                            serving.await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(target: "tandem::server", "no connection was taken: {error}");
                        sleep(SERVER_ACCEPT_RETRY).await;
                    }
                },
            }
        }
    }

    /// Ends every connection after the request it is in, or cuts it.
    async fn drain(mut self, backend: &dyn Backend, options: ServerOptions) -> Ended {
        self.ends.send_replace(true);
        let done = async {
            // Asked all along: connections may wait for requests that go on only once the backend knows that no more come.
            while !backend.is_drained() || !self.tasks.is_empty() {
                tokio::select! {
                    Some(_) = self.tasks.join_next() => {}
                    () = sleep(SERVER_DRAIN_POLL) => {}
                }
            }
        };
        if timeout(options.drain_timeout, done).await.is_ok() {
            return Ended::Drained;
        }
        let connections = self.tasks.len();
        self.tasks.shutdown().await;
        Ended::Cut { connections }
    }
}

/// Serves one connection to its end.
async fn connection(stream: TcpStream, router: Router, options: ServerOptions, mut ends: watch::Receiver<bool>) {
    // Replies are written whole: to wait for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let busy = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        busy.store(true, Ordering::Relaxed);
        let answer = service.call(request.map(Body::new));
        let busy = &busy;
        Box::pin(async move {
            let answer = answer.await;
            // One that closes its connection may have left some of its request unread.
            let closes = answer.as_ref().is_ok_and(|a| a.headers().contains_key(header::CONNECTION));
            busy.store(closes, Ordering::Relaxed);
            answer
        })
    });
    let mut serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.read_timeout)
        .serve_connection(TokioIo::new(Patient::new(stream, options.write_timeout)), service);
    let finished = tokio::select! {
        finished = poll_fn(|cx| serving.poll_without_shutdown(cx)) => Some(finished),
        // Or the server itself is gone.
        () = async { drop(ends.wait_for(|ends| *ends).await) } => None,
    };
    let mut was_idle = false;
    let finished = match finished {
        Some(finished) => finished,
        None => {
            was_idle = !busy.load(Ordering::Relaxed);
            Pin::new(&mut serving).graceful_shutdown();
            poll_fn(|cx| serving.poll_without_shutdown(cx)).await
        }
    };
    if let Err(error) = finished {
        tracing::debug!(target: "tandem::server", "a connection ended early: {error}");
    }
    let left = serving.into_parts();
    // Who has asked nothing more has read its last reply.
    let is_quiet = was_idle && left.read_buf.is_empty();
    if let Some(stream) = left.io.into_inner().into_inner()
        && !is_quiet
    {
        linger(stream).await;
    }
}

/// Closes a connection so that the client can read the last reply: with bytes of a refused body still on their way, the
/// system would answer them by resetting the connection, and the reply would be lost.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = stream.take(SERVER_LINGER_BYTES_MAX);
    // Either way it is over: read to the end, cut, or waited for long enough.
    let _ = timeout(SERVER_LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}
