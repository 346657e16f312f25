//! `tandem profile`, and the measuring that `plan` does on its own: observed facts, proofs of batching, costs.

use std::cell::RefCell;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use tandem_ir::batch::Binding;
use tandem_ir::plan::Batching;
use tandem_ir::{Device, DeviceKind, Fingerprint, Machine, Profile, format};
use tandem_onnx::import::Model;
use tandem_onnx::value::Value;
use tandem_runtime::engine::Engine;
use tandem_runtime::profiler::{self, ProfileError, ProfileOptions, ProfileRequest, Progress, facts, proof};

use crate::cli::{BindArgs, ProfileArgs};
use crate::commands::plan::profile_fingerprint;
use crate::context::{Context, report};
use crate::output::write_out;
use crate::{binding, clock, commands, prepare};

/// What is wanted of measuring.
pub struct Wish<'a> {
    /// Batch sizes.
    pub batches: Vec<u64>,
    /// Thread counts; all sensible ones where empty.
    pub threads: Vec<u32>,
    /// Whole runs too.
    pub segments: bool,
    /// Copies of host memory too.
    pub links: bool,
    /// Batches even where a batch differs from its rows.
    pub insist: bool,
    /// Sample inputs, where given.
    pub bind: &'a BindArgs,
}

/// What planning needs beside graph and machine.
pub struct Gathered {
    /// What was measured; `None` where nothing of the machine is here to be measured.
    pub profile: Option<Profile>,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Of each model, how its batches are known to be sound.
    pub batching: Vec<Batching>,
}

/// Profiles, and writes the profile.
pub fn run(context: &Context, args: &ProfileArgs) -> Result<()> {
    let machine = context.machine(&args.machine)?;
    let mut models: Vec<(String, Model)> = vec![];
    for reference in &args.models {
        let mut model = prepare::open(context, reference, None)?;
        let (_, notes) = prepare::bind(&mut model, reference, &args.bind)?;
        notes.iter().for_each(|n| context.say(&format!("note: {reference}: {n}")));
        models.push((binding::tenant_name(reference), model));
    }
    let wish = Wish {
        batches: args.batch.clone(),
        threads: args.threads.clone(),
        segments: args.segments,
        links: true,
        insist: args.insist_batch,
        bind: &args.bind,
    };
    let mut named: Vec<(&str, &mut Model)> = models.iter_mut().map(|(n, m)| (n.as_str(), m)).collect();
    let gathered = gather(context, &machine, &mut named, None, &wish)?;
    let profile = match gathered.profile {
        Some(profile) => profile,
        None => bail!(
            "{}: nothing of this machine is here to be measured; `tandem plan --machine {}` models it from its rates",
            machine.name,
            args.machine
        ),
    };
    report("the profile just made", tandem_ir::check::check_profile(&profile))?;
    write_out(args.output.as_deref(), &format::profile::to_yaml(&profile))?;
    for (name, batching) in models.iter().map(|(n, _)| n).zip(&gathered.batching) {
        context.say(&match batching {
            Batching::Refused(why) => format!("{name}: batch 1 only: {why}"),
            other => format!("{name}: batches {}", format!("{other:?}").to_lowercase()),
        });
    }
    context.say(&format!("{} samples of {} atoms tables", profile.samples.len(), profile.tables.len()));
    Ok(())
}

/// What observing a model gave beside its shapes.
pub struct Observed {
    /// What people should know.
    pub notes: Vec<String>,
    /// Whether an engine here ran it; else the notes hold each one's words.
    pub ran: bool,
}

/// Observes shapes of a bound model on the engines at hand.
pub fn observe(context: &Context, model: &mut Model, bind: &BindArgs) -> Result<Observed> {
    let binding: Binding = bound(model);
    let sample: Option<Vec<Value>> = bind.sample.as_ref().map(|p| commands::run::read_inputs(p, model)).transpose()?;
    let engines: Vec<&dyn Engine> = context.engines()?.iter().map(Arc::as_ref).collect();
    let resolved = facts::resolve(&engines, model, &binding, sample.as_deref(), Some(&context.samples_dir()));
    let resolved = match resolved {
        Ok(resolved) => resolved,
        Err(findings) => bail!("{}", findings.iter().map(|f| f.to_string()).collect::<Vec<_>>().join("\n")),
    };
    model.graph = resolved.graph;
    Ok(Observed { notes: resolved.notes, ran: resolved.engine.is_some() })
}

/// The binding that a bound graph carries in its inputs' facts.
fn bound(model: &Model) -> Binding {
    use tandem_ir::Dim;
    use tandem_ir::plan::BoundDim;
    let inputs = model.graph.inputs.iter().map(|t| model.graph.tensor(*t));
    let dim = |d: &Dim| match d {
        Dim::Known(n) => Some(BoundDim::Fixed(*n)),
        Dim::Batch { per_item } => Some(BoundDim::Batch(*per_item)),
        Dim::Symbol(_) | Dim::Unknown => None,
    };
    let dims = |t: &tandem_ir::Tensor| t.fact.shape.as_ref()?.iter().map(dim).collect::<Option<Vec<_>>>();
    inputs.filter_map(|t| Some((t.name.clone(), dims(t)?))).collect()
}

/// Observes, proves and measures what planning for `machine` needs and `given` does not hold. Facts go into the models'
/// graphs.
pub fn gather(
    context: &Context,
    machine: &Machine,
    models: &mut [(&str, &mut Model)],
    given: Option<Profile>,
    wish: &Wish<'_>,
) -> Result<Gathered> {
    let bar = context.bar("observing");
    bar.set_length(models.len() as u64);
    let mut refusals: Vec<(&str, Vec<String>)> = vec![];
    for (name, model) in models.iter_mut() {
        bar.set_message((*name).to_owned());
        let Observed { notes, ran } = observe(context, model, wish.bind)?;
        match ran {
            true => notes.iter().for_each(|note| bar.suspend(|| context.say(&format!("note: {name}: {note}")))),
            false => refusals.push((*name, notes)),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let here = context.this_machine()?;
    let host = same_processor(&machine.devices[0], &here.devices[0]);
    let measured = match given {
        Some(profile) => Ok(Some(profile)),
        None if host => measure(context, machine, models, wish).map(Some),
        None => Ok(None),
    };
    let profile = measured.map_err(|error| refused(error, &refusals))?;
    for (name, notes) in &refusals {
        notes.iter().for_each(|note| context.say(&format!("note: {name}: {note}")));
    }
    let batching = models.iter().map(|(_, m)| batching(context, m, profile.as_ref(), wish)).collect::<Result<_>>()?;
    Ok(Gathered { fingerprint: profile_fingerprint(profile.as_ref()), profile, batching })
}

/// Observing tells in the model's own words what engines refuse; measuring would only say it again.
fn refused(error: anyhow::Error, refusals: &[(&str, Vec<String>)]) -> anyhow::Error {
    let Some(ProfileError::Model { model, error: cause }) = error.downcast_ref() else { return error };
    let words =
        refusals.iter().find(|(name, _)| name == model).filter(|_| matches!(**cause, ProfileError::NoEngine(_)));
    match words {
        Some((_, words)) => anyhow!("{model}: no engine here runs it\n  {}", words.join("\n  ")),
        None => error,
    }
}

/// Whether a machine's host is the processor this runs on: what is measured here then holds there.
fn same_processor(a: &Device, b: &Device) -> bool {
    (a.kind, &a.model, a.cores) == (DeviceKind::Cpu, &b.model, b.cores) && a.rates.is_none()
}

fn measure(context: &Context, machine: &Machine, models: &[(&str, &mut Model)], wish: &Wish<'_>) -> Result<Profile> {
    let cores = machine.devices[0].cores.max(1);
    let powers = std::iter::successors(Some(1u32), |t| t.checked_mul(2)).take_while(|t| *t < cores);
    let threads = if wish.threads.is_empty() { powers.chain([cores]).collect() } else { wish.threads.clone() };
    let options = ProfileOptions {
        batches: wish.batches.clone(),
        threads,
        segments: wish.segments,
        interference: true,
        links: wish.links,
        date: clock::today(),
    };
    let requests: Vec<ProfileRequest<'_>> =
        models.iter().map(|(name, model)| ProfileRequest { name, model, insist: wish.insist }).collect();
    let engines: Vec<&dyn Engine> = context.engines()?.iter().map(Arc::as_ref).collect();
    let bar = context.bar("profiling");
    // Engines that refuse a model are only told of where another runs it: else they are the error.
    let notes = RefCell::new(vec![]);
    let progress = |event: Progress<'_>| match event {
        Progress::Step { done, total, what } => {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            bar.set_message(what.to_owned());
        }
        Progress::Note(text) => notes.borrow_mut().push(text.to_owned()),
    };
    let profile = profiler::profile(&requests, &engines, machine, &options, Some(&context.samples_dir()), &progress);
    bar.finish_and_clear();
    let profile = profile?;
    let mut notes = notes.into_inner();
    notes.dedup();
    notes.iter().for_each(|text| context.say(&format!("note: {text}")));
    Ok(profile)
}

/// How a model's batches are known to be sound. For a described machine the proof is made on an engine that is here: it is
/// about the model, not about speed.
fn batching(context: &Context, model: &Model, profile: Option<&Profile>, wish: &Wish<'_>) -> Result<Batching> {
    if wish.insist {
        return Ok(Batching::Insisted);
    }
    if wish.batches.iter().all(|b| *b <= 1) || !profiler::is_batchable(&model.graph) {
        let why = if profiler::is_batchable(&model.graph) {
            "only batch 1 was asked for"
        } else {
            "no input has a batch axis"
        };
        return Ok(Batching::Refused(why.into()));
    }
    let found = profile.and_then(|p| p.proofs.iter().find(|f| f.graph == model.graph.fingerprint)).cloned();
    let proof = match found {
        Some(proof) => Some(proof),
        None => context.engines()?.first().map(|engine| proof::prove(engine.as_ref(), model)),
    };
    Ok(match proof {
        None => Batching::Inferred,
        Some(proof) => proof.refusal.map_or(Batching::Proven, Batching::Refused),
    })
}
