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
    let (loaded, failed) = oneshot::channel::<ServingError>();
    let (verbose, quiet) = (context.common.verbose > 0, context.common.quiet);
    let loading = serving.clone();
    std::thread::Builder::new().name("load".into()).spawn(move || {
        let models: Vec<&Model> = models.iter().collect();
        let told = |text: &str| {
            if verbose || (!quiet && text.starts_with("note")) {
                eprintln!("{text}");
            }
        };
        match loading.load(&plan, &models, &engines, &options, told) {
            Ok(()) if quiet => {}
            Ok(()) => eprintln!("ready"),
            Err(error) => drop(loaded.send(error)),
        }
    })?;
    let mut failure = None;
    let ended = tokio.block_on(async {
        let failure = &mut failure;
        let shutdown = async {
            tokio::select! {
                () = signals.first() => {}
                error = failed => match error {
                    Ok(error) => *failure = Some(error),
                    // Loaded: only a signal ends it now.
                    Err(_) => signals.first().await,
                },
            }
        };
        server::serve(serving.clone(), listener, server_options, shutdown).await.map_err(|e| anyhow!(e))
    })?;
    match (failure, ended) {
        (Some(error), _) => Err(error).with_context(|| file),
        (None, Ended::Drained) => Ok(()),
        (None, Ended::Cut { connections }) => {
            Err(anyhow!("{connections} connections were cut after the drain timeout"))
        }
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
