//! Where to draw the boxes of a graph: rows by longest path, order within a row by barycentre, columns of rows side by side
//! so that a long narrow graph fills a page.
//!
//! An edge over several rows runs through a thin slot in each row between; edges of one box share their slots. Within a row,
//! the places closest to the mean of the neighbours' are found exactly, by pooling those that would overlap.
//!
//! Source: Sugiyama, Tagawa, Toda, "Methods for visual understanding of hierarchical system structures" (1981), for rows,
//! slots and barycentres.

use std::collections::BTreeSet;
use std::ops::Range;

use super::limits::{ROW_BOXES_MAX, SWEEPS};

/// Between boxes of a row.
const GAP: f64 = 14.0;
/// Room of an edge that passes a row.
const SLOT: f64 = 8.0;
/// Between rows.
const ROW_GAP: f64 = 24.0;
/// Above, below and between columns, beside what edges between columns need.
const MARGIN: f64 = 14.0;
/// Between edges that go from one column to the next.
const TRACK: f64 = 6.0;

/// What is to be drawn: the size of each box, and (from, to) with from before to in a topological order.
pub(super) struct Sketch {
    pub(super) sizes: Vec<(f64, f64)>,
    pub(super) edges: Vec<(usize, usize)>,
}

/// Where it goes.
pub(super) struct Drawing {
    /// Left upper corner of each box.
    pub(super) places: Vec<(f64, f64)>,
    pub(super) paths: Vec<Path>,
    pub(super) size: (f64, f64),
}

/// An edge's part in SVG's words, the box the edge begins at, and the one this part ends at, where it does.
pub(super) type Path = (String, usize, Option<usize>);

/// A box or a slot in a row.
#[derive(Clone, Copy)]
struct Item {
    /// The box, or the one whose edges pass here.
    owner: usize,
    slot: bool,
    width: f64,
    /// Middle.
    x: f64,
}

#[derive(Default)]
struct Rows {
    items: Vec<Item>,
    /// Items of each row, from left to right.
    rows: Vec<Vec<usize>>,
    /// Items above and below each item that an edge connects it with.
    above: Vec<Vec<usize>>,
    below: Vec<Vec<usize>>,
}

/// Draws within about `width`; what is wider than that by itself stays so.
pub(super) fn draw(sketch: &Sketch, width: f64) -> Drawing {
    let mut rows = Rows::new(sketch, &ranks(sketch));
    rows.order();
    let columns = rows.columns(width);
    columns.iter().for_each(|c| rows.arrange(c.clone()));
    rows.emit(sketch, &columns)
}

/// The row of each box: below all it depends on, none with more than [`ROW_BOXES_MAX`]; what depends on nothing is just above
/// its first reader.
fn ranks(sketch: &Sketch) -> Vec<usize> {
    let n = sketch.sizes.len();
    let (mut before, mut after) = (vec![vec![]; n], vec![vec![]; n]);
    sketch.edges.iter().for_each(|(a, b)| {
        before[*b].push(*a);
        after[*a].push(*b);
    });
    let mut longest = vec![0usize; n];
    for v in 0..n {
        longest[v] = before[v].iter().map(|p| longest[*p] + 1).max().unwrap_or(0);
    }
    for v in (0..n).filter(|v| before[*v].is_empty()) {
        longest[v] = after[v].iter().map(|s| longest[*s].saturating_sub(1)).min().unwrap_or(0);
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|v| (longest[*v], *v));
    let (mut rank, mut filled) = (vec![0usize; n], vec![0usize; n + 1]);
    for v in order {
        let lowest = before[v].iter().map(|p| rank[*p] + 1).max().unwrap_or(0).max(longest[v]);
        // Every row in between holds a box, so that there is a row with room among the first n.
        let free = (lowest..n).find(|r| filled[*r] < ROW_BOXES_MAX).unwrap_or(lowest);
        rank[v] = free;
        filled[free] += 1;
    }
    let used: BTreeSet<usize> = rank.iter().copied().collect();
    rank.iter().map(|r| used.range(..r).count()).collect()
}

impl Rows {
    fn new(sketch: &Sketch, rank: &[usize]) -> Self {
        let mut rows = Self { rows: vec![vec![]; rank.iter().max().map_or(0, |r| r + 1)], ..Self::default() };
        for (v, (width, _)) in sketch.sizes.iter().enumerate() {
            rows.push(rank[v], Item { owner: v, slot: false, width: *width, x: 0.0 });
        }
        let mut targets = vec![vec![]; sketch.sizes.len()];
        sketch.edges.iter().for_each(|(a, b)| targets[*a].push(*b));
        for (v, mut targets) in targets.into_iter().enumerate() {
            targets.sort_unstable_by_key(|t| (rank[*t], *t));
            targets.dedup();
            // The last item of this box's edges, and its row.
            let (mut tail, mut row) = (v, rank[v]);
            for t in targets {
                while row + 1 < rank[t] {
                    row += 1;
                    let slot = rows.push(row, Item { owner: v, slot: true, width: SLOT, x: 0.0 });
                    rows.link(tail, slot);
                    tail = slot;
                }
                rows.link(tail, t);
            }
        }
        rows
    }

    fn push(&mut self, row: usize, item: Item) -> usize {
        self.items.push(item);
        self.above.push(vec![]);
        self.below.push(vec![]);
        self.rows[row].push(self.items.len() - 1);
        self.items.len() - 1
    }

    fn link(&mut self, upper: usize, lower: usize) {
        self.below[upper].push(lower);
        self.above[lower].push(upper);
    }

    /// Sorts each row by the mean position of the neighbours above, then below, and again.
    fn order(&mut self) {
        let mut position = vec![0.0; self.items.len()];
        let settle = |row: &[usize], position: &mut [f64]| {
            let middle = (row.len() as f64 - 1.0) / 2.0;
            row.iter().enumerate().for_each(|(i, item)| position[*item] = i as f64 - middle);
        };
        self.rows.iter().for_each(|row| settle(row, &mut position));
        for sweep in 0..SWEEPS {
            let down = sweep % 2 == 0;
            let neighbours = if down { &self.above } else { &self.below };
            let count = self.rows.len();
            for r in (0..count).map(|r| if down { r } else { count - 1 - r }) {
                let mean = |item: &usize| mean(&neighbours[*item], |n| position[n]).unwrap_or(position[*item]);
                let mut keyed: Vec<(f64, usize)> = self.rows[r].iter().map(|i| (mean(i), *i)).collect();
                keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
                self.rows[r] = keyed.into_iter().map(|(_, i)| i).collect();
                settle(&self.rows[r], &mut position);
            }
        }
    }

    /// Width of the widest of some rows.
    fn widest(&self, rows: &Range<usize>) -> f64 {
        let width = |r: usize| self.rows[r].iter().map(|i| self.items[*i].width + GAP).sum::<f64>() - GAP;
        rows.clone().map(width).fold(0.0, f64::max)
    }

    /// Rows side by side, in as many columns of one height as fit the width; at least one.
    fn columns(&self, width: f64) -> Vec<Range<usize>> {
        let count = self.rows.len();
        let cut = |height: usize| -> Vec<Range<usize>> {
            (0..count.div_ceil(height)).map(|c| c * height..((c + 1) * height).min(count)).collect()
        };
        let wide =
            |column: &Range<usize>| self.widest(column) + 2.0 * MARGIN + TRACK * self.crossing(column.end).len() as f64;
        let fits = |height: &usize| cut(*height).iter().map(wide).sum::<f64>() <= width;
        let heights = (1..=count).rev().map(|columns| count.div_ceil(columns));
        heights.into_iter().find(fits).map_or_else(|| cut(count.max(1)), cut)
    }

    /// Edges from the row above to this one.
    fn crossing(&self, row: usize) -> Vec<(usize, usize)> {
        let upper = row.checked_sub(1).and_then(|r| self.rows.get(r)).into_iter().flatten();
        upper.flat_map(|u| self.below[*u].iter().map(|l| (*u, *l))).collect()
    }

    /// Gives the items of one column their x, within what its widest row needs.
    fn arrange(&mut self, column: Range<usize>) {
        let inside: BTreeSet<usize> = column.clone().flat_map(|r| self.rows[r].iter().copied()).collect();
        let room = self.widest(&column);
        let rows: Vec<usize> = column.collect();
        for sweep in 0..=SWEEPS {
            for i in 0..rows.len() {
                let r = if sweep % 2 == 0 { rows[i] } else { rows[rows.len() - 1 - i] };
                let wish = |item: &usize| {
                    let near = self.above[*item].iter().chain(&self.below[*item]).filter(|n| inside.contains(n));
                    let near: Vec<usize> = near.copied().collect();
                    // At first all are in the middle.
                    let mean = if sweep == 0 { None } else { mean(&near, |n| self.items[n].x) };
                    mean.unwrap_or(self.items[*item].x)
                };
                let wishes: Vec<f64> = self.rows[r].iter().map(wish).collect();
                let widths: Vec<f64> = self.rows[r].iter().map(|i| self.items[*i].width).collect();
                let places = separated(&wishes, &widths, room);
                self.rows[r].iter().zip(places).for_each(|(i, x)| self.items[*i].x = x);
            }
        }
    }

    /// Puts columns beside each other and draws the edges.
    fn emit(&self, sketch: &Sketch, columns: &[Range<usize>]) -> Drawing {
        // Above all columns there is room for the edges that come from the column before.
        let head = MARGIN + TRACK * columns.iter().map(|c| self.crossing(c.start).len()).max().unwrap_or(0) as f64;
        let mut frames = vec![(0.0, 0.0, 0.0); self.items.len()];
        let mut paths = vec![];
        let (mut left, mut lowest) = (0.0, head);
        for column in columns {
            let gutter = left + MARGIN;
            left = gutter + TRACK * self.crossing(column.start).len() as f64;
            let right = self.frame(sketch, column, (left, head), &mut frames);
            for r in column.clone() {
                let links = self.rows[r].iter().flat_map(|u| self.above[*u].iter().map(|a| (*a, *u)));
                match r == column.start {
                    true => paths.extend(self.turns(&frames, r, gutter)),
                    false => paths.extend(links.map(|link| self.curve(&frames, link))),
                }
                paths.extend(self.rows[r].iter().filter(|i| self.items[**i].slot).map(|i| self.passage(&frames, *i)));
                lowest = self.rows[r].iter().map(|i| frames[*i].2).fold(lowest, f64::max);
            }
            left = right + MARGIN;
        }
        let corner = |v: usize| (frames[v].0 - sketch.sizes[v].0 / 2.0, frames[v].1);
        let places = (0..sketch.sizes.len()).map(corner).collect();
        Drawing { places, paths, size: (left, lowest + head) }
    }

    /// Middle, top and bottom of each item of a column whose left upper corner is given; returns its right end.
    fn frame(&self, sketch: &Sketch, column: &Range<usize>, corner: (f64, f64), frames: &mut [(f64, f64, f64)]) -> f64 {
        let items: Vec<Item> = column.clone().flat_map(|r| &self.rows[r]).map(|i| self.items[*i]).collect();
        let least = items.iter().map(|i| i.x - i.width / 2.0).fold(f64::MAX, f64::min);
        let most = items.iter().map(|i| i.x + i.width / 2.0).fold(f64::MIN, f64::max);
        let mut top = corner.1;
        for row in column.clone().map(|r| &self.rows[r]) {
            let height = |i: &usize| if self.items[*i].slot { 0.0 } else { sketch.sizes[self.items[*i].owner].1 };
            let tallest = row.iter().map(height).fold(0.0, f64::max);
            for i in row {
                let spare = if self.items[*i].slot { 0.0 } else { tallest - height(i) };
                let x = self.items[*i].x - least + corner.0;
                frames[*i] = (x, top + spare / 2.0, top + tallest - spare / 2.0);
            }
            top += tallest + ROW_GAP;
        }
        corner.0 + most - least
    }

    /// An edge's part from one row to the next.
    fn curve(&self, frames: &[(f64, f64, f64)], (upper, lower): (usize, usize)) -> Path {
        let ((x1, _, y1), (x2, y2, _)) = (frames[upper], frames[lower]);
        let middle = (y1 + y2) / 2.0;
        let path = format!("M{x1:.1} {y1:.1}C{x1:.1} {middle:.1} {x2:.1} {middle:.1} {x2:.1} {y2:.1}");
        self.path(path, upper, lower)
    }

    /// An edge's part through a row.
    fn passage(&self, frames: &[(f64, f64, f64)], slot: usize) -> Path {
        let (x, top, bottom) = frames[slot];
        (format!("M{x:.1} {top:.1}V{bottom:.1}"), self.items[slot].owner, None)
    }

    /// Edges from the end of one column to the begin of the next: down, left of the next column up, and down again.
    fn turns(&self, frames: &[(f64, f64, f64)], row: usize, gutter: f64) -> Vec<Path> {
        let crossing = self.crossing(row);
        let end = crossing.iter().map(|(u, _)| frames[*u].2).fold(0.0, f64::max);
        let turn = |(track, (upper, lower)): (usize, &(usize, usize))| {
            let ((x1, _, y1), (x2, y2, _)) = (frames[*upper], frames[*lower]);
            let offset = TRACK * (track + 1) as f64;
            let (low, x, high) = (end + offset, gutter + offset - TRACK, MARGIN / 2.0 + offset - TRACK);
            let path = format!("M{x1:.1} {y1:.1}V{low:.1}H{x:.1}V{high:.1}H{x2:.1}V{y2:.1}");
            self.path(path, *upper, *lower)
        };
        crossing.iter().enumerate().map(turn).collect()
    }

    fn path(&self, path: String, upper: usize, lower: usize) -> Path {
        let ends = Some(self.items[lower]).filter(|i| !i.slot).map(|i| i.owner);
        (path, self.items[upper].owner, ends)
    }
}

fn mean(items: &[usize], of: impl Fn(usize) -> f64) -> Option<f64> {
    (!items.is_empty()).then(|| items.iter().map(|i| of(*i)).sum::<f64>() / items.len() as f64)
}

/// The middles closest to what is wished (least squares) such that items of these widths keep their order and the gap, and
/// lie within a room around 0.
fn separated(wishes: &[f64], widths: &[f64], room: f64) -> Vec<f64> {
    // With each item's least distance from the first one taken off, middles must only not decrease.
    let mut offsets: Vec<f64> = vec![];
    for (i, width) in widths.iter().enumerate() {
        offsets.push(if i > 0 { offsets[i - 1] + (widths[i - 1] + width) / 2.0 + GAP } else { 0.0 });
    }
    let mut pools: Vec<(f64, usize)> = vec![];
    for (wish, offset) in wishes.iter().zip(&offsets) {
        pools.push((wish - offset, 1));
        while let [.., (a, n), (b, m)] = pools[..] {
            if a <= b {
                break;
            }
            pools.truncate(pools.len() - 2);
            pools.push(((a * n as f64 + b * m as f64) / (n + m) as f64, n + m));
        }
    }
    let (Some(first), Some(last), Some(end)) = (widths.first(), widths.last(), offsets.last()) else { return vec![] };
    let (least, most) = ((first - room) / 2.0, (room - last) / 2.0 - end);
    let flat = pools.into_iter().flat_map(|(mean, n)| std::iter::repeat_n(mean.min(most).max(least), n));
    flat.zip(offsets).map(|(x, offset)| x + offset).collect()
}
