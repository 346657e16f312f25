//! `tandem serve`: a plan behind an inference server.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tandem_ir::{Bytes, Graph, Nanos, check};
use tandem_onnx::import::Model;
use tandem_runtime::driver::RunnerOptions;
use tandem_runtime::limits::{SERVER_TEXT_THREADS_MAX, SERVER_THREADS};
use tandem_runtime::server::{self, Ended, ServerOptions};
use tandem_runtime::serving::{Serving, ServingError};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::cli::ServeArgs;
use crate::commands::run::{load_plan, refuse};
use crate::context::Context;
use crate::output::print;
use crate::prepare;

/// Serves until it is told to end.
pub fn run(context: &Context, args: &ServeArgs) -> Result<()> {
    let plan = load_plan(&args.plan)?;
    let file = args.plan.display().to_string();
    let mut models = prepare::plan_models(context, &plan.authored, &plan.derived.graphs, &args.plan, &args.overrides)?;
    let graphs: Vec<(&str, &Graph)> = models.iter().map(|(n, m)| (n.as_str(), &m.graph)).collect();
    refuse(&file, check::check_plan_against(&plan, &graphs))?;
    for (name, model) in &mut models {
        plan.derived.routes.iter().filter(|r| r.tenant == *name).for_each(|route| prepare::trust(model, route));
    }
    let models: Vec<Model> = models.into_iter().map(|(_, model)| model).collect();
    let serving = Arc::new(Serving::new(&plan, &models.iter().collect::<Vec<_>>())?);
    let engines = context.engines()?.to_vec();
    let options = RunnerOptions { emulate: args.emulate, ..RunnerOptions::default() };
    let server_options = server_options(args)?;

    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVER_THREADS)
        .max_blocking_threads(SERVER_TEXT_THREADS_MAX)
        .enable_all()
        .build()?;
    let listener = tokio.block_on(TcpListener::bind(&args.http)).with_context(|| format!("--http {}", args.http))?;
    // From here on: whoever reads the address may want an end already.
    let mut signals = tokio.block_on(async { Signals::new() })?;
    print(&format!("http://{}\n", listener.local_addr()?))?;
    // Loading takes as long as it takes; meanwhile the server is live and not ready.
    let (tell, loaded) = oneshot::channel();
    let (verbose, quiet) = (context.common.verbose > 0, context.common.quiet);
    let loading = serving.clone();
    std::thread::Builder::new().name("load".into()).spawn(move || {
        let models: Vec<&Model> = models.iter().collect();
        let told = |text: &str| {
            if verbose || (!quiet && text.starts_with("note")) {
                eprintln!("{text}");
            }
        };
        let done = loading.load(&plan, &models, &engines, &options, told);
        if done.is_ok() && !quiet {
            eprintln!("ready");
        }
        // The server may be at its end already.
        let _ = tell.send(done);
    })?;
    let mut failure = None;
    let ended = tokio.block_on(async {
        let failure = &mut failure;
        let shutdown = async {
            tokio::select! {
                () = signals.first() => {}
                failed = failure_of(loaded) => match failed {
                    Some(error) => *failure = Some(error),
                    // Only a signal ends it now.
                    None => signals.first().await,
                },
            }
        };
        server::serve(serving.clone(), listener, server_options, shutdown).await.map_err(|e| anyhow!(e))
    })?;
    match (failure, ended) {
        (Some(error), _) => Err(error.context(file)),
        (None, Ended::Drained) => Ok(()),
        (None, Ended::Cut { connections }) => {
            // Its threads are waited for when it is dropped, and one of them may be in an engine that never returns.
            std::mem::forget(serving);
            Err(anyhow!("{connections} connections were cut after the drain timeout"))
        }
    }
}

/// Why loading failed, once it is over.
async fn failure_of(loaded: oneshot::Receiver<Result<(), ServingError>>) -> Option<anyhow::Error> {
    match loaded.await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.into()),
        Err(_) => Some(anyhow!("loading panicked")),
    }
}

fn server_options(args: &ServeArgs) -> Result<ServerOptions> {
    let duration = |name: &str, text: &str| -> Result<Duration> {
        let nanos = text.parse::<Nanos>().map_err(|e| anyhow!("{name} {text}: {e}"))?;
        Ok(Duration::from_nanos(nanos.0))
    };
    let body_max = args.body_max.parse::<Bytes>().map_err(|e| anyhow!("--body-max {}: {e}", args.body_max))?;
    Ok(ServerOptions {
        body_bytes_max: body_max.0,
        drain_delay: duration("--drain-delay", &args.drain_delay)?,
        drain_timeout: duration("--drain-timeout", &args.drain_timeout)?,
        ..ServerOptions::default()
    })
}

/// SIGTERM and SIGINT: the first asks for an end, the second is one.
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn first(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
        let second = Self::new();
        tokio::spawn(async move {
            if let Ok(mut second) = second {
                let code = tokio::select! {
                    _ = second.term.recv() => 143,
                    _ = second.int.recv() => 130,
                };
                std::process::exit(code);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tandem_core::scheduler::SetupError;

    use super::*;

    #[test]
    fn only_what_has_loaded_has_not_failed() {
        let failure = |tell: Option<Result<(), ServingError>>| {
            let (sender, loaded) = oneshot::channel();
            // A sender that is dropped is one whose thread panicked.
            match tell {
                Some(done) => sender.send(done).expect("it is waited for"),
                None => drop(sender),
            }
            let tokio = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            tokio.block_on(failure_of(loaded)).map(|error| error.to_string())
        };
        let refused = SetupError::NoRoute("a".into());
        assert_eq!(failure(Some(Ok(()))), None);
        assert_eq!(failure(Some(Err(refused.clone().into()))), Some(refused.to_string()));
        assert_eq!(failure(None), Some("loading panicked".into()));
    }
}
