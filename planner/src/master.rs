//! The master program of phase two: how many items a second each route carries, so that all tenants together carry the
//! most.
//!
//! Tenant i wants w_i items a second; a column is a route with its busy time a_q on each resource for a batch of b items.
//! [`Master::fluid`] maximises lambda subject to: every tenant's routes carry at least lambda w_i, and no resource is busy
//! for more than all the time. Its dual, solved as a program of its own, gives prices of resources: a route whose priced
//! time an item is below its tenant's value would help (column generation; Dantzig and Wolfe 1960, Gilmore and Gomory
//! 1961). [`Master::choose`] keeps few routes that fit in memory: a counted branch and bound over the columns.
//!
//! What a solver says in floating point is never taken for proof: [`Master::bound`] holds for any prices.

use good_lp::{Expression, ProblemVariables, Solution, SolverModel, Variable, constraint, microlp, variable};
use tandem_ir::units::{Bytes, Nanos};

/// A route that may carry load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Whose it is, by position.
    pub tenant: usize,
    /// Items of a batch.
    pub batch: u64,
    /// Busy time a batch of each resource.
    pub busy: Vec<Nanos>,
    /// Memory it holds on each device.
    pub memory: Vec<Bytes>,
}

/// What there is, and what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// Thousandths of items a second that each tenant wants; above 0.
    pub millirate: Vec<u64>,
    /// Instances of each resource: each is there for a second a second.
    pub instances: Vec<u64>,
    /// Memory of each device.
    pub memory: Vec<Bytes>,
}

/// The best that columns can do.
#[derive(Clone, Debug, PartialEq)]
pub struct Fluid {
    /// Multiples of what is wanted that are carried.
    pub lambda: f64,
    /// Items a second by column.
    pub items: Vec<f64>,
    /// Price of a nanosecond of each resource: integers, scaled so that the largest is [`PRICE_MAX`].
    pub price: Vec<u64>,
    /// Value of an item of each tenant at those prices.
    pub value: Vec<f64>,
}

/// Routes that were kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// Multiples of what is wanted that are carried.
    pub lambda: f64,
    /// Columns that carry something, ascending, with their items a second.
    pub routes: Vec<(usize, f64)>,
    /// Programs solved.
    pub nodes: usize,
    /// Whether no better choice is left.
    pub is_best: bool,
}

/// The master program cannot be solved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MasterError {
    /// No column of a tenant.
    #[error("tenant {tenant} has no route that may carry anything")]
    NoColumn {
        /// Which.
        tenant: usize,
    },
    /// What the solver says.
    #[error("the master program: {0}")]
    Solver(String),
}

/// The largest price: cuts multiply prices by nanoseconds and add, in 63 bits.
pub const PRICE_MAX: u64 = 1 << 20;

/// Programs that a choice of routes may usually solve.
pub const NODES_MAX: usize = 400;

/// Rates below this part of a tenant's load are the solver's dust.
const DUST: f64 = 1e-7;

/// Nanoseconds of a second.
const SECOND: f64 = 1e9;

/// Columns in units in which all coefficients are at most 1.
struct Scaled {
    /// By column, by resource: part of the resource that the column takes when it runs alone as fast as it can.
    takes: Vec<Vec<f64>>,
    /// By column: items a second alone.
    alone: Vec<f64>,
    /// By column: of the fastest column of its tenant.
    part: Vec<f64>,
    /// By tenant: what is wanted, as parts of the whole.
    wanted: Vec<f64>,
    /// What the parts were divided by.
    whole: f64,
}

impl Master {
    /// The best that these columns can do, memory aside.
    ///
    /// # Errors
    /// A tenant without columns; what the solver says.
    pub fn fluid(&self, columns: &[&Column]) -> Result<Fluid, MasterError> {
        let scaled = self.scaled(columns)?;
        let (lambda, items) = self.primal(columns, &scaled)?;
        let (price, value) = self.dual(columns, &scaled)?;
        Ok(Fluid { lambda, items, price, value })
    }

    fn scaled(&self, columns: &[&Column]) -> Result<Scaled, MasterError> {
        let mut best = vec![0.0f64; self.millirate.len()];
        let (mut takes, mut alone) = (vec![], vec![]);
        for column in columns {
            let mut times: Vec<f64> =
                column.busy.iter().zip(&self.instances).map(|(b, n)| b.0 as f64 / (*n).max(1) as f64).collect();
            let mut busiest = times.iter().copied().fold(0.0, f64::max);
            // What takes no time would carry anything: it takes a nanosecond.
            if busiest == 0.0 {
                (busiest, times[0]) = (1.0, 1.0);
            }
            let rate = column.batch as f64 * SECOND / busiest;
            takes.push(times.into_iter().map(|t| t / busiest).collect());
            alone.push(rate);
            best[column.tenant] = best[column.tenant].max(rate);
        }
        if let Some(tenant) = best.iter().position(|b| *b == 0.0) {
            return Err(MasterError::NoColumn { tenant });
        }
        let part = columns.iter().zip(&alone).map(|(c, a)| a / best[c.tenant]).collect();
        let wanted: Vec<f64> = self.millirate.iter().zip(&best).map(|(w, b)| *w as f64 / 1000.0 / b).collect();
        let whole: f64 = wanted.iter().sum();
        Ok(Scaled { takes, alone, part, wanted: wanted.iter().map(|w| w / whole).collect(), whole })
    }

    /// (lambda, items a second by column).
    fn primal(&self, columns: &[&Column], scaled: &Scaled) -> Result<(f64, Vec<f64>), MasterError> {
        let mut variables = ProblemVariables::new();
        let lambda = variables.add(variable().min(0));
        let use_of: Vec<Variable> = variables.add_vector(variable().min(0), columns.len());
        let mut model = variables.maximise(lambda).using(microlp);
        for (tenant, wanted) in scaled.wanted.iter().enumerate() {
            let own = (0..columns.len()).filter(|c| columns[*c].tenant == tenant);
            let carried: Expression = own.map(|c| scaled.part[c] * use_of[c]).sum();
            model = model.with(constraint!(carried - *wanted * lambda >= 0));
        }
        for resource in 0..self.instances.len() {
            let takes = (0..columns.len()).filter(|c| scaled.takes[*c][resource] > 0.0);
            let taken: Expression = takes.map(|c| scaled.takes[c][resource] * use_of[c]).sum();
            model = model.with(constraint!(taken <= 1));
        }
        let solved = model.solve().map_err(|e| MasterError::Solver(e.to_string()))?;
        let items = use_of.iter().zip(&scaled.alone).map(|(v, alone)| solved.value(*v).max(0.0) * alone).collect();
        Ok((solved.value(lambda) / scaled.whole, items))
    }

    /// (price of resources, value of items).
    fn dual(&self, columns: &[&Column], scaled: &Scaled) -> Result<(Vec<u64>, Vec<f64>), MasterError> {
        let mut variables = ProblemVariables::new();
        let price: Vec<Variable> = variables.add_vector(variable().min(0), self.instances.len());
        let value: Vec<Variable> = variables.add_vector(variable().min(0), self.millirate.len());
        let all: Expression = price.iter().copied().sum();
        let mut model = variables.minimise(all).using(microlp);
        for (c, column) in columns.iter().enumerate() {
            let paid: Expression = price.iter().zip(&scaled.takes[c]).map(|(p, takes)| *takes * *p).sum();
            model = model.with(constraint!(paid - scaled.part[c] * value[column.tenant] >= 0));
        }
        let wanted: Expression = value.iter().zip(&scaled.wanted).map(|(v, w)| *w * *v).sum();
        let solved = model.with(constraint!(wanted >= 1)).solve().map_err(|e| MasterError::Solver(e.to_string()))?;
        // A price is of all instances together; a nanosecond of one of them costs that part.
        let each: Vec<f64> =
            price.iter().zip(&self.instances).map(|(p, n)| solved.value(*p).max(0.0) / (*n).max(1) as f64).collect();
        let largest = each.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let scale = PRICE_MAX as f64 / largest;
        let prices: Vec<u64> = each.iter().map(|p| (p * scale).round() as u64).collect();
        // The least priced time an item among the tenant's columns, at the prices as they were rounded.
        let mut values = vec![f64::INFINITY; self.millirate.len()];
        for column in columns {
            values[column.tenant] = values[column.tenant].min(priced_item(column, &prices));
        }
        Ok((prices, values))
    }

    /// Few routes that fit: at most so many a tenant, and in every device's memory together. Solves at most so many
    /// programs.
    ///
    /// # Errors
    /// A tenant without columns; what the solver says. `None` where nothing fits.
    pub fn choose(
        &self,
        columns: &[&Column],
        routes_max: usize,
        nodes_max: usize,
    ) -> Result<Option<Chosen>, MasterError> {
        let mut search = Choice { master: self, columns, routes_max, nodes: 0, best: None };
        let mut open = vec![Node { allowed: vec![true; columns.len()], kept: vec![] }];
        while let Some(node) = open.pop() {
            if search.nodes == nodes_max {
                open.push(node);
                break;
            }
            search.visit(node, &mut open)?;
        }
        let (nodes, is_best) = (search.nodes, open.is_empty());
        Ok(search.best.map(|(lambda, routes)| Chosen { lambda, routes, nodes, is_best }))
    }

    /// Multiples of what is wanted, in parts per million and rounded up, that nothing can exceed whose priced time for an
    /// item of tenant i is at least `floor[i]`: (priced time, items). Holds for any prices.
    pub fn bound(&self, price: &[u64], floor: &[(u128, u64)]) -> u64 {
        let there: u128 = price.iter().zip(&self.instances).map(|(p, n)| u128::from(*p) * u128::from(*n)).sum::<u128>()
            * 1_000_000_000;
        // What the wanted rates cost at least, in millionths of the price a second: rounded down.
        let costs =
            |(w, (priced, items)): (&u64, &(u128, u64))| u128::from(*w) * 1000 * priced / u128::from((*items).max(1));
        let wanted: u128 = self.millirate.iter().zip(floor).map(costs).sum();
        match wanted {
            0 => u64::MAX,
            wanted => u64::try_from((there * 1_000_000).saturating_mul(1_000_000).div_ceil(wanted)).unwrap_or(u64::MAX),
        }
    }

    /// Multiples of what is wanted, in parts per million and rounded down, that routes carry at stated shares of their
    /// tenants' batches: (column, share). And how much of the time each resource is busy then, in parts per million.
    pub fn carried(&self, routes: &[(&Column, u64)]) -> (u64, Vec<u64>) {
        let mut load = vec![0.0f64; self.instances.len()];
        for (tenant, millirate) in self.millirate.iter().enumerate() {
            let own = || routes.iter().filter(|(c, _)| c.tenant == tenant);
            let items: f64 = own().map(|(c, share)| c.batch as f64 * *share as f64).sum();
            if items == 0.0 {
                continue;
            }
            for (column, share) in own() {
                let batches = *millirate as f64 / 1000.0 * *share as f64 / items;
                let busy = column.busy.iter().zip(&self.instances);
                load.iter_mut().zip(busy).for_each(|(l, (b, n))| *l += batches * b.0 as f64 / (SECOND * *n as f64));
            }
        }
        let most = load.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let lambda = (1e6 / most).floor();
        (lambda as u64, load.iter().map(|l| (l / most * 1e6).round() as u64).collect())
    }
}

/// Priced time of an item.
pub fn priced_item(column: &Column, price: &[u64]) -> f64 {
    let priced: u128 = column.busy.iter().zip(price).map(|(b, p)| u128::from(b.0) * u128::from(*p)).sum();
    priced as f64 / column.batch as f64
}

/// Columns that may be used, and those that must be kept in memory.
struct Node {
    allowed: Vec<bool>,
    kept: Vec<usize>,
}

struct Choice<'a> {
    master: &'a Master,
    columns: &'a [&'a Column],
    routes_max: usize,
    nodes: usize,
    best: Option<(f64, Vec<(usize, f64)>)>,
}

impl Choice<'_> {
    /// Solves a node; its children go on the stack.
    fn visit(&mut self, node: Node, open: &mut Vec<Node>) -> Result<(), MasterError> {
        let allowed: Vec<usize> = (0..self.columns.len()).filter(|c| node.allowed[*c]).collect();
        let some: Vec<&Column> = allowed.iter().map(|c| self.columns[*c]).collect();
        self.nodes += 1;
        let scaled = match self.master.scaled(&some) {
            Err(MasterError::NoColumn { .. }) => return Ok(()),
            scaled => scaled?,
        };
        let (lambda, items) = self.master.primal(&some, &scaled)?;
        // Better by less than a millionth is the solver's business, not ours.
        if self.best.as_ref().is_some_and(|(best, _)| lambda <= best * (1.0 + 1e-6)) {
            return Ok(());
        }
        let used: Vec<(usize, f64)> = allowed
            .iter()
            .zip(&items)
            .zip(&scaled.alone)
            .filter(|((_, items), alone)| **items > DUST * **alone)
            .map(|((c, items), _)| (*c, *items))
            .collect();
        let mut held: Vec<usize> = node.kept.clone();
        held.extend(used.iter().map(|(c, _)| *c).filter(|c| !node.kept.contains(c)));
        if self.fits(&held) {
            self.best = Some((lambda, used));
            return Ok(());
        }
        // The one that carries least of its tenant's load is decided first: without it, or with it kept.
        let part = |c: usize, items: f64| items / self.master.millirate[self.columns[c].tenant] as f64;
        let free = used.iter().filter(|(c, _)| !node.kept.contains(c));
        let Some((decide, _)) = free.min_by(|a, b| part(a.0, a.1).total_cmp(&part(b.0, b.1))) else { return Ok(()) };
        let mut kept = node.kept.clone();
        kept.push(*decide);
        if self.fits(&kept) {
            open.push(Node { allowed: self.still_allowed(&node.allowed, &kept), kept });
        }
        let mut allowed = node.allowed;
        allowed[*decide] = false;
        open.push(Node { allowed, kept: node.kept });
        Ok(())
    }

    /// Without what would not fit beside what is kept.
    fn still_allowed(&self, allowed: &[bool], kept: &[usize]) -> Vec<bool> {
        let fits = |c: usize| {
            kept.contains(&c) || {
                let mut with = kept.to_vec();
                with.push(c);
                self.fits(&with)
            }
        };
        (0..allowed.len()).map(|c| allowed[c] && fits(c)).collect()
    }

    fn fits(&self, held: &[usize]) -> bool {
        let of = |tenant: usize| held.iter().filter(|c| self.columns[**c].tenant == tenant).count();
        let few = (0..self.master.millirate.len()).all(|t| of(t) <= self.routes_max);
        let memory = |d: usize| held.iter().map(|c| self.columns[*c].memory[d].0).fold(0u64, u64::saturating_add);
        few && (0..self.master.memory.len()).all(|d| memory(d) <= self.master.memory[d].0)
    }
}

#[cfg(test)]
mod tests;
