//! One profiling run over several models: what is cached, what is measured, and where it goes in the document.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tandem_ir::profile::{
    Atom, AtomTable, BatchProof, Interference, LinkSample, Method, Profile, SegmentSample, Setting, Timing,
};
use tandem_ir::{Bytes, Device, DeviceKind, Fingerprint, Machine, Nanos, NodeId};
use tandem_onnx::cut::{self, SegmentImage};
use tandem_onnx::import::Model;

use super::budget::{self, Budget};
use super::cache::{self, Cache, FileTiming, SessionCost};
use super::isolated::Added;
use super::sampling::{Point, Sampler, Samples, Take, one_shape_a_session, threads_used};
use super::{
    ProfileError, ProfileOptions, ProfileRequest, Progress, feeds, interference, is_batchable, isolated, links,
    mapping, overhead, pooled, proof, statistics,
};
use crate::engine::Engine;

/// Rounds of lanes against lanes: a ratio needs fewer than a duration.
const LANES: Budget = Budget { rounds_min: 3, rounds_max: 20, aim: Nanos(800_000_000), guard: Nanos(4_000_000_000) };

/// A run this long is too long to be run on several lanes at each end of the batches: the smallest one has to do.
const LANE_RUN_MAX: Nanos = Nanos(600_000_000);

/// Units of progress, about what each takes: a model's operators, its lanes, and the copies.
const OPERATORS: usize = 100;
const LANES_UNITS: usize = 50;
const LINKS: usize = 5;

pub(super) struct Run<'a> {
    engines: &'a [&'a dyn Engine],
    device: &'a Device,
    options: &'a ProfileOptions,
    folder: Option<PathBuf>,
    caches: BTreeMap<String, Cache>,
    progress: &'a dyn Fn(Progress<'_>),
    done: usize,
    total: usize,
    document: Profile,
}

/// One model on one engine.
struct Job<'a> {
    name: &'a str,
    model: &'a Model,
    engine: &'a dyn Engine,
    /// Identity of the graph with its facts.
    key: Fingerprint,
    /// Points as the engine truly runs them.
    points: Vec<Point>,
}

/// A copy's duration, as it is cached.
#[derive(Serialize, Deserialize)]
struct CopyNote {
    bytes: u64,
    timing: FileTiming,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        engines: &'a [&'a dyn Engine],
        machine: &'a Machine,
        options: &'a ProfileOptions,
        folder: Option<&Path>,
        progress: &'a dyn Fn(Progress<'_>),
    ) -> Result<Self, ProfileError> {
        let device = machine.devices.iter().find(|d| d.kind == DeviceKind::Cpu);
        let device = device.ok_or_else(|| ProfileError::NoDevice { machine: machine.name.clone() })?;
        Ok(Self {
            engines,
            device,
            options,
            folder: folder.map(Path::to_path_buf),
            caches: BTreeMap::new(),
            progress,
            done: 0,
            total: 0,
            document: Profile::new(machine.clone(), options.date.clone()),
        })
    }

    pub(super) fn all(mut self, models: &[ProfileRequest<'_>]) -> Result<Profile, ProfileError> {
        let lanes = if self.options.interference { LANES_UNITS } else { 0 };
        let links = if self.options.links { LINKS } else { 0 };
        self.total = models.len() * (OPERATORS + lanes) + links;
        for request in models {
            self.model(request).map_err(|e| e.of_model(request.name))?;
        }
        if self.options.links {
            self.step("copies of host memory");
            self.links();
            self.done += LINKS;
        }
        self.save();
        self.step("done");
        Ok(self.document)
    }

    fn step(&self, what: &str) {
        self.part(0, what);
    }

    /// As [`Run::step`], with a part of the unit under way done.
    fn part(&self, part: usize, what: &str) {
        (self.progress)(Progress::Step { done: self.done + part, total: self.total, what });
    }

    fn note(&self, text: &str) {
        (self.progress)(Progress::Note(text));
    }

    /// Keeps what is new. A cache that cannot be written is no reason to lose the profile.
    fn save(&mut self) {
        let failed: Vec<String> = self
            .caches
            .values_mut()
            .filter_map(|c| c.save().err())
            .map(|e| format!("the cache was not written: {e}"))
            .collect();
        failed.iter().for_each(|text| self.note(text));
    }

    fn cache(&mut self, engine: &dyn Engine) -> &mut Cache {
        let (folder, device) = (self.folder.as_deref(), self.device);
        let progress = self.progress;
        self.caches.entry(engine.name().to_owned()).or_insert_with(|| {
            let Some(folder) = folder else { return Cache::in_memory() };
            let identity = cache::machine_identity(device);
            let opened = Cache::open(folder, engine.name(), engine.version(), &identity);
            if let Some(warning) = &opened.warning {
                progress(Progress::Note(warning));
            }
            opened
        })
    }

    fn setting(&self, engine: &dyn Engine, point: Point) -> Setting {
        let (device, engine) = (self.device.name.clone(), engine.name().to_owned());
        Setting { device, engine, threads: point.threads, batch: point.batch }
    }

    /// Tries the engines in order; the first that runs the model is its engine.
    fn model(&mut self, request: &ProfileRequest<'_>) -> Result<(), ProfileError> {
        let mut words = vec![];
        let key = cache::graph_key(&request.model.graph);
        let (before, proofs) = (self.done, self.document.proofs.len());
        for engine in self.engines {
            let points = self.points(request, *engine, key);
            let job = Job { name: request.name, model: request.model, engine: *engine, key, points };
            match self.job(&job) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.done = before;
                    self.document.proofs.truncate(proofs);
                    self.note(&format!("{}: not on {}: {error}", request.name, engine.name()));
                    words.push(error.to_string());
                }
            }
        }
        Err(ProfileError::NoEngine(words))
    }

    /// The points to measure: batches where they are proven, threads that the engine tells apart.
    fn points(&mut self, request: &ProfileRequest<'_>, engine: &dyn Engine, key: Fingerprint) -> Vec<Point> {
        let single = [1];
        let batches: &[u64] = if self.may_batch(request, engine, key) { &self.options.batches } else { &single };
        let mut points: Vec<Point> = vec![];
        for threads in &self.options.threads {
            let threads = threads_used(engine, *threads);
            points.extend(batches.iter().map(|batch| Point { threads, batch: *batch }));
        }
        points.sort_unstable();
        points.dedup();
        points
    }

    /// Whether larger batches are measured: the model has them, and they are proven or insisted on.
    fn may_batch(&mut self, request: &ProfileRequest<'_>, engine: &dyn Engine, key: Fingerprint) -> bool {
        if self.options.batches.iter().all(|b| *b == 1) {
            return is_batchable(&request.model.graph);
        }
        let refusal: Option<String> = match self.cache(engine).note(key, "proof") {
            Some(refusal) => refusal,
            None => {
                self.step(&format!("{}: whether a batch equals its rows", request.name));
                let refusal = proof::prove(engine, request.model).refusal;
                self.cache(engine).put_note(key, "proof", &refusal);
                refusal
            }
        };
        if let Some(why) = &refusal {
            let what = if request.insist { "batches are not proven" } else { "batch 1 only" };
            self.note(&format!("{}: {what}: {why}", request.name));
        }
        let proven = refusal.is_none();
        let graph = request.model.graph.fingerprint;
        self.document.proofs.push(BatchProof { graph, refusal, engine: engine.name().to_owned() });
        proven || (request.insist && is_batchable(&request.model.graph))
    }

    fn job(&mut self, job: &Job<'_>) -> Result<(), ProfileError> {
        self.step(&format!("{}: operators on {}", job.name, job.engine.name()));
        let mut costs = BTreeMap::new();
        for point in &job.points {
            if let Entry::Vacant(place) = costs.entry(point.threads) {
                place.insert(self.session_cost(job.engine, point.threads)?);
            }
        }
        let atoms = self.operators(job, &costs)?;
        self.write_operators(job, &atoms, &costs);
        self.done += OPERATORS;
        if self.options.segments {
            self.write_whole_runs(job);
        }
        if self.options.interference {
            self.step(&format!("{}: lanes against lanes", job.name));
            if let Err(error) = self.lanes(job, &atoms) {
                self.note(&format!("{}: interference was not measured: {error}", job.name));
            }
            self.done += LANES_UNITS;
        }
        self.save();
        Ok(())
    }

    fn session_cost(&mut self, engine: &dyn Engine, threads: u32) -> Result<SessionCost, ProfileError> {
        let setting = self.setting(engine, Point { threads, batch: 0 });
        if let Some(cost) = self.cache(engine).cost(&setting) {
            return Ok(cost);
        }
        let cost = overhead::measure(engine, threads)?;
        self.cache(engine).put_cost(&setting, cost);
        Ok(cost)
    }

    /// The model's atoms, with a sample of each at each point in the cache.
    fn operators(&mut self, job: &Job<'_>, costs: &BTreeMap<u32, SessionCost>) -> Result<Vec<Atom>, ProfileError> {
        let threads = job.points.first().map_or(1, |p| p.threads);
        let device = self.device.name.clone();
        let known = self.cache(job.engine).table(job.key, &device, threads).map(<[Atom]>::to_vec);
        let missing: Vec<Point> =
            job.points.iter().copied().filter(|p| !self.is_known(job, known.as_deref(), *p)).collect();
        if let Some(known) = known.as_ref().filter(|_| missing.is_empty()) {
            return Ok(known.clone());
        }
        let samples = self.sample(job, &missing, known.as_deref(), costs)?;
        let atoms = samples.atoms;
        for sampled in &samples.points {
            let setting = self.setting(job.engine, sampled.point);
            let cache = self.cache(job.engine);
            for (signature, timing) in pooled(&atoms, &sampled.atoms) {
                // What another model measured stands: a profile of that model is not to change under it.
                if cache.sample(&signature, &setting).is_none() && timing.repeats > 0 {
                    cache.put_sample(&signature, &setting, timing);
                }
            }
            if !sampled.whole_ns.is_empty() {
                let timing = FileTiming::from(&statistics::timing(&sampled.whole_ns, Method::Isolated));
                cache.put_note(job.key, &whole_note(sampled.point), &timing);
            }
        }
        self.cache(job.engine).put_table(job.key, &device, threads, atoms.clone());
        Ok(atoms)
    }

    fn is_known(&mut self, job: &Job<'_>, atoms: Option<&[Atom]>, point: Point) -> bool {
        let setting = self.setting(job.engine, point);
        let whole = self.options.segments;
        let cache = self.cache(job.engine);
        let sampled = |atoms: &[Atom]| atoms.iter().all(|a| cache.sample(&a.signature, &setting).is_some());
        atoms.is_some_and(sampled) && (!whole || cache.note::<FileTiming>(job.key, &whole_note(point)).is_some())
    }

    /// Measures the points, all at once where their sessions fit into memory, else one by one; what does not fit alone
    /// is left out with a note.
    fn sample(
        &self,
        job: &Job<'_>,
        points: &[Point],
        known: Option<&[Atom]>,
        costs: &BTreeMap<u32, SessionCost>,
    ) -> Result<Samples, ProfileError> {
        let image = cut::cut_whole(job.model)?;
        let take = Take { profiled: true, whole: self.options.segments };
        let available = budget::available_memory();
        let each = |p: &Point| budget::session_bytes(&job.model.graph, p.batch);
        let kinds = 1 + u64::from(take.whole);
        let mut fitting = vec![];
        for point in points {
            if budget::fits(kinds, each(point), available) {
                fitting.push(*point);
            } else {
                let (batch, needed) = (point.batch, each(point));
                self.note(&format!("{}: batch {batch} is left out: a session needs about {needed}", job.name));
            }
        }
        let largest = fitting.iter().map(each).max().unwrap_or(Bytes::ZERO);
        if fitting.is_empty() {
            let needed = points.iter().map(each).min().unwrap_or(Bytes::ZERO);
            return Err(ProfileError::Memory { needed, available: available.unwrap_or(Bytes::ZERO) });
        }
        let sessions = sessions(job.engine, &fitting) * kinds;
        let groups: Vec<Vec<Point>> = match budget::fits(sessions, largest, available) {
            true => vec![fitting],
            false => fitting.into_iter().map(|p| vec![p]).collect(),
        };
        let mut all = Samples { atoms: known.map(<[Atom]>::to_vec).unwrap_or_default(), points: vec![] };
        let shares = groups.len() as u64;
        for group in groups {
            let known = (!all.atoms.is_empty()).then_some(all.atoms.as_slice());
            let samples = self.sample_group(job, &image, &group, take, known, costs, shares)?;
            all.atoms = samples.atoms;
            all.points.extend(samples.points);
        }
        Ok(all)
    }

    #[allow(clippy::too_many_arguments)]
    fn sample_group(
        &self,
        job: &Job<'_>,
        image: &SegmentImage,
        points: &[Point],
        take: Take,
        known: Option<&[Atom]>,
        costs: &BTreeMap<u32, SessionCost>,
        shares: u64,
    ) -> Result<Samples, ProfileError> {
        let mut fed = vec![];
        for point in points {
            fed.push((*point, Arc::new(feeds(&job.model.graph, point.batch)?)));
        }
        let mut sampler = Sampler::load(job.engine, image, &job.model.graph, &fed, take)?;
        let rounds = sampler.warm_up(&Budget::MODEL.shared(shares))?;
        let mut added = Added::load(job.engine, job.model, image, known, points)?;
        sampler.measure(&rounds, &mut |done, of| {
            let part = OPERATORS * done as usize / of as usize;
            self.part(part, &format!("{}: operators, round {} of {of}", job.name, done + 1));
            added.as_mut().map_or(Ok(()), Added::turn)
        })?;
        let known = added.as_ref().map(Added::atoms).or(known);
        let mut samples = sampler.finish(known, &|t| costs.get(&t).map_or(0, |c| c.timing_overhead_ns))?;
        if samples.points.iter().any(|s| s.atoms.is_empty()) {
            self.alone(job, &mut samples, costs)?;
            return Ok(samples);
        }
        let launch = |t: u32| costs.get(&t).map_or(0, |c| c.launch_ns);
        for (signature, why) in added.map(|a| a.refine(&mut samples, &launch)).unwrap_or_default() {
            self.note(&format!("{}: {signature} keeps the engine's timing: {why}", job.name));
        }
        Ok(samples)
    }

    /// Measures atoms alone, for an engine that does not time its nodes.
    fn alone(
        &self,
        job: &Job<'_>,
        samples: &mut Samples,
        costs: &BTreeMap<u32, SessionCost>,
    ) -> Result<(), ProfileError> {
        if samples.atoms.is_empty() {
            samples.atoms = mapping::plain_atoms(&job.model.graph);
        }
        let points: Vec<Point> = samples.points.iter().map(|s| s.point).collect();
        let launch = |t: u32| costs.get(&t).map_or(0, |c| c.launch_ns);
        let found =
            isolated::measure(job.engine, job.model, &samples.atoms, &points, &launch, &mut |done, of, what| {
                self.step(&format!("{}: {what} alone ({} of {of})", job.name, done + 1));
            })?;
        for (signature, why) in &found.failures {
            self.note(&format!("{}: {signature} cannot be run alone: {why}", job.name));
        }
        let by: BTreeMap<_, Timing> = found.timings.into_iter().map(|(s, p, t)| ((s, p), t)).collect();
        let unknown = Timing { median: Nanos::ZERO, spread: Nanos::ZERO, repeats: 0, method: Method::Isolated };
        for sampled in &mut samples.points {
            let timing = |a: &Atom| by.get(&(a.signature.clone(), sampled.point)).copied().unwrap_or(unknown);
            sampled.atoms = samples.atoms.iter().map(timing).collect();
        }
        Ok(())
    }

    /// Puts table, samples and launches into the document, also for thread counts that the engine does not tell apart.
    fn write_operators(&mut self, job: &Job<'_>, atoms: &[Atom], costs: &BTreeMap<u32, SessionCost>) {
        for asked in self.options.threads.clone() {
            let threads = threads_used(job.engine, asked);
            for point in job.points.iter().filter(|p| p.threads == threads) {
                let from = self.setting(job.engine, *point);
                let to = Setting { threads: asked, ..from.clone() };
                for atom in atoms {
                    if let Some(timing) = self.cache(job.engine).sample(&atom.signature, &from) {
                        self.document.samples.insert((atom.signature.clone(), to.clone()), timing);
                    }
                }
            }
            if let Some(cost) = costs.get(&threads) {
                let (median, spread) = (Nanos(cost.launch_ns), Nanos(cost.launch_spread_ns));
                let timing = Timing { median, spread, repeats: cost.repeats, method: Method::Isolated };
                let setting = self.setting(job.engine, Point { threads: asked, batch: 0 });
                self.document.launches.insert(setting, timing);
            }
        }
        self.document.tables.push(AtomTable {
            graph: job.model.graph.fingerprint,
            model: job.name.to_owned(),
            device: self.device.name.clone(),
            engine: job.engine.name().to_owned(),
            atoms: atoms.to_vec(),
        });
    }

    fn write_whole_runs(&mut self, job: &Job<'_>) {
        let nodes: Vec<NodeId> = job.model.graph.placeable().collect();
        let (Some(first), Some(last)) = (nodes.first(), nodes.last()) else { return };
        for asked in self.options.threads.clone() {
            let threads = threads_used(job.engine, asked);
            for point in job.points.iter().filter(|p| p.threads == threads) {
                let Some(timing) = self.cache(job.engine).note::<FileTiming>(job.key, &whole_note(*point)) else {
                    continue;
                };
                let setting = Setting { threads: asked, ..self.setting(job.engine, *point) };
                self.document.segments.push(SegmentSample {
                    graph: job.model.graph.fingerprint,
                    nodes: (*first, *last, nodes.len() as u32),
                    setting,
                    timing: timing.into(),
                });
            }
        }
    }

    /// Lanes against lanes, measured at the smallest and, if that does not take too long, at the largest batch; other
    /// batches get the larger of the factors, marked as modelled.
    fn lanes(&mut self, job: &Job<'_>, atoms: &[Atom]) -> Result<(), ProfileError> {
        let mut batches: Vec<u64> = job.points.iter().map(|p| p.batch).collect();
        batches.sort_unstable();
        batches.dedup();
        let (Some(least), Some(most)) = (batches.first(), batches.last()) else { return Ok(()) };
        let mut image = None;
        for (lanes, threads) in interference::configurations(self.device.cores, &self.options.threads) {
            let mut measured = BTreeMap::new();
            for batch in [*least, *most] {
                let point = Point { threads, batch };
                if batch == *least || self.duration(job, atoms, point) <= LANE_RUN_MAX {
                    measured.insert(batch, self.lane_factor(job, lanes, point, &mut image)?);
                }
            }
            let larger = measured.values().copied().max().unwrap_or(1000);
            for batch in &batches {
                let (factor, method) = match measured.get(batch) {
                    Some(factor) => (*factor, Method::Isolated),
                    None => (larger, Method::Modelled),
                };
                self.document.interference.push(Interference {
                    graph: job.model.graph.fingerprint,
                    setting: self.setting(job.engine, Point { threads, batch: *batch }),
                    lanes,
                    factor_permille: factor,
                    method,
                });
            }
        }
        Ok(())
    }

    /// What the samples say a run takes.
    fn duration(&mut self, job: &Job<'_>, atoms: &[Atom], point: Point) -> Nanos {
        let threads = threads_used(job.engine, point.threads);
        let setting = self.setting(job.engine, Point { threads, ..point });
        let cache = self.cache(job.engine);
        atoms.iter().filter_map(|a| cache.sample(&a.signature, &setting)).map(|t| t.median).sum()
    }

    fn lane_factor(
        &mut self,
        job: &Job<'_>,
        lanes: u32,
        point: Point,
        image: &mut Option<SegmentImage>,
    ) -> Result<u64, ProfileError> {
        let name = format!("lanes {lanes}x{} batch {}", point.threads, point.batch);
        if let Some(factor) = self.cache(job.engine).note(job.key, &name) {
            return Ok(factor);
        }
        let each = budget::session_bytes(&job.model.graph, point.batch);
        let available = budget::available_memory();
        if !budget::fits(u64::from(lanes), each, available) {
            let needed = each * u64::from(lanes);
            return Err(ProfileError::Memory { needed, available: available.unwrap_or(Bytes::ZERO) });
        }
        let image = match image {
            Some(image) => image,
            None => image.insert(cut::cut_whole(job.model)?),
        };
        let inputs = feeds(&job.model.graph, point.batch)?;
        self.step(&format!("{}: {lanes} lanes of {} threads, batch {}", job.name, point.threads, point.batch));
        let factor = interference::factor_permille(job.engine, image, &inputs, (lanes, point.threads), &LANES)?;
        self.cache(job.engine).put_note(job.key, &name, &factor);
        Ok(factor)
    }

    fn links(&mut self) {
        let Some(engine) = self.engines.first().copied() else { return };
        // Copies are the machine's, not a graph's nor an engine's: any engine's file will do.
        let key = Fingerprint::of(b"links");
        let device = self.device.name.clone();
        let known: Option<Vec<CopyNote>> = self.cache(engine).note(key, "host copies");
        let samples: Vec<LinkSample> = match known {
            Some(notes) => {
                let sample = |n: CopyNote| LinkSample {
                    from: device.clone(),
                    to: device.clone(),
                    bytes: n.bytes,
                    timing: n.timing.into(),
                };
                notes.into_iter().map(sample).collect()
            }
            None => links::host_copies(&device),
        };
        let notes: Vec<CopyNote> =
            samples.iter().map(|s| CopyNote { bytes: s.bytes, timing: (&s.timing).into() }).collect();
        self.cache(engine).put_note(key, "host copies", &notes);
        self.document.links = samples;
    }
}

fn whole_note(point: Point) -> String {
    format!("whole threads {} batch {}", point.threads, point.batch)
}

/// Sessions that the points take, of one kind.
fn sessions(engine: &dyn Engine, points: &[Point]) -> u64 {
    let mut distinct: Vec<(u32, u64)> =
        points.iter().map(|p| (p.threads, if one_shape_a_session(engine) { p.batch } else { 0 })).collect();
    distinct.sort_unstable();
    distinct.dedup();
    distinct.len() as u64
}
