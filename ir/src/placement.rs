//! Placements as authors write them: parts with patterns, expanded over a graph's nodes and written back as ranges.

use std::collections::HashMap;

use crate::check::Finding;
use crate::graph::{Graph, NodeId};
use crate::plan::{NodePattern, Part};

/// Unknown names that get a suggestion each; finding near misses looks at every name of the graph.
const SUGGESTIONS_MAX: usize = 20;

/// Each node's part: the first that names it. `None` for folded nodes and for nodes no part names (which is an error in a
/// route and usual in pins: the caller's business).
///
/// # Errors
/// A finding for each name that is no node's, each range that runs backwards and each glob that matches nothing, at its place
/// in the list, which is called `field`: `pins[0].nodes[2]`.
pub fn expand_parts(graph: &Graph, parts: &[Part], field: &str) -> Result<Vec<Option<usize>>, Vec<Finding>> {
    let names = Names::new(graph);
    let mut of: Vec<Option<usize>> = vec![None; graph.nodes.len()];
    let mut findings = vec![];
    for (p, part) in parts.iter().enumerate() {
        for (i, pattern) in part.nodes.iter().enumerate() {
            let component = || format!("{field}[{p}].nodes[{i}]");
            match names.matches(pattern, findings.len() < SUGGESTIONS_MAX) {
                Ok(nodes) => nodes.for_each(|n| {
                    if !graph.nodes[n].folded && of[n].is_none() {
                        of[n] = Some(p);
                    }
                }),
                Err(message) => findings.push(Finding::error(component(), message)),
            }
        }
    }
    if findings.is_empty() { Ok(of) } else { Err(findings) }
}

/// Writes a placement as parts, the opposite of [`expand_parts`]: `part_of` gives each placeable node's part (those without
/// one are left out), `devices` each part's device. Runs of nodes become ranges, which may span nodes that an earlier part
/// already has; the last part is written `*` where nothing is left out.
pub fn parts_of(graph: &Graph, part_of: &[Option<usize>], devices: &[String]) -> Vec<Part> {
    let nodes: Vec<(NodeId, Option<usize>)> = graph.placeable().map(|id| (id, part_of[id.index()])).collect();
    let complete = nodes.iter().all(|(_, p)| p.is_some_and(|p| p < devices.len()));
    let range = |first: NodeId, last: NodeId| match first == last {
        true => NodePattern::One(graph.node_name(first)),
        false => NodePattern::Range(graph.node_name(first), graph.node_name(last)),
    };
    let part = |(p, device): (usize, &String)| {
        if complete && p + 1 == devices.len() {
            let any = nodes.iter().any(|(_, q)| *q == Some(p));
            return Part { device: device.clone(), nodes: if any { vec![NodePattern::Rest] } else { vec![] } };
        }
        let (mut patterns, mut run): (Vec<NodePattern>, Option<(NodeId, NodeId)>) = (vec![], None);
        for (id, q) in &nodes {
            match q {
                Some(q) if *q == p => run = Some((run.map_or(*id, |(first, _)| first), *id)),
                Some(q) if *q < p => {}
                _ => patterns.extend(run.take().map(|(first, last)| range(first, last))),
            }
        }
        patterns.extend(run.map(|(first, last)| range(first, last)));
        Part { device: device.clone(), nodes: patterns }
    };
    devices.iter().enumerate().map(part).collect()
}

struct Names<'g> {
    graph: &'g Graph,
    list: Vec<String>,
    index: HashMap<String, usize>,
}

impl<'g> Names<'g> {
    fn new(graph: &'g Graph) -> Self {
        let list: Vec<String> = graph.node_ids().map(|id| graph.node_name(id)).collect();
        let index = list.iter().cloned().enumerate().map(|(i, name)| (name, i)).collect();
        Self { graph, list, index }
    }

    fn matches(&self, pattern: &NodePattern, suggest: bool) -> Result<Box<dyn Iterator<Item = usize> + '_>, String> {
        let find = |name: &str| self.index.get(name).copied().ok_or_else(|| self.unknown(name, suggest));
        match pattern {
            NodePattern::Rest => Ok(Box::new(0..self.list.len())),
            NodePattern::One(name) => find(name).map(|i| Box::new(std::iter::once(i)) as Box<_>),
            NodePattern::Range(first, last) => match (find(first)?, find(last)?) {
                (a, b) if a <= b => Ok(Box::new(a..=b)),
                _ => {
                    Err(format!("\"{first}\" comes after \"{last}\" in the graph's order: write \"{last} .. {first}\""))
                }
            },
            NodePattern::Glob(glob) => {
                let found: Vec<usize> = (0..self.list.len()).filter(|i| glob_matches(glob, &self.list[*i])).collect();
                match found.is_empty() {
                    true => Err(format!("the pattern \"{glob}\" matches no node")),
                    false => Ok(Box::new(found.into_iter())),
                }
            }
        }
    }

    fn unknown(&self, name: &str, suggest: bool) -> String {
        let mut text = format!("the model has no node \"{name}\" (a node is called by its first output)");
        if let Some(better) = suggest.then(|| self.suggestion(name)).flatten() {
            text.push_str(&format!("; did you mean \"{better}\"?"));
        }
        text
    }

    /// A later output of a node, or a node's own name, stands for its first output; else the nearest name.
    fn suggestion(&self, name: &str) -> Option<&str> {
        let of = |id: NodeId| self.list[id.index()].as_str();
        let output = self.graph.tensors.iter().find(|t| t.name == name).and_then(|t| t.producer);
        let own = || self.graph.node_ids().find(|id| self.graph.node(*id).name == name);
        if let Some(id) = output.or_else(own) {
            return Some(of(id));
        }
        let most = (name.chars().count() / 3).max(1);
        let distances = self.list.iter().filter_map(|n| edit_distance(name, n, most).map(|d| (d, n)));
        distances.min().map(|(_, n)| n.as_str())
    }
}

/// Whether a text matches a pattern in which each `*` stands for any run of characters.
pub fn glob_matches(glob: &str, text: &str) -> bool {
    let mut pieces = glob.split('*');
    let first = pieces.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        // The earliest place is as good as any: what follows may only need more room.
        let Some(i) = rest.find(piece) else { return false };
        rest = &rest[i + piece.len()..];
    }
    rest.ends_with(last)
}

/// Levenshtein distance, `None` above `most` (V. I. Levenshtein, "Binary codes capable of correcting deletions, insertions,
/// and reversals", 1966).
fn edit_distance(a: &str, b: &str, most: usize) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > most {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    Some(row[b.len()]).filter(|d| *d <= most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{self, Random};

    #[test]
    fn globs_match() {
        let yes =
            [("*", ""), ("*", "abc"), ("a*", "a"), ("a*c", "abc"), ("*b*", "abc"), ("a*b*c", "aXbYbZc"), ("é*", "éa")];
        let no = [("a*", "ba"), ("a*a", "a"), ("*bc*bc", "abc"), ("a*b", "abc"), ("", "a")];
        assert!(yes.iter().all(|(g, t)| glob_matches(g, t)));
        assert!(no.iter().all(|(g, t)| !glob_matches(g, t)));
    }

    #[test]
    fn placements_are_expanded_as_written() {
        for seed in 0..500 {
            let mut r = Random(seed);
            let n = 1 + r.below(40);
            let graph = random::graph(&mut r, n);
            let parts = 1 + r.below(4);
            let devices: Vec<String> = (0..parts).map(|p| format!("d{p}")).collect();
            let holes = r.chance(30);
            let of: Vec<Option<usize>> = (0..n).map(|_| (!holes || r.chance(80)).then(|| r.below(parts))).collect();
            let written = parts_of(&graph, &of, &devices);
            assert_eq!(expand_parts(&graph, &written, "parts"), Ok(of), "seed {seed}: {written:?}");
        }
    }

    #[test]
    fn wrong_names_are_found_with_a_suggestion() {
        let graph = random::graph(&mut Random(1), 20);
        let part = |nodes: Vec<NodePattern>| Part { device: "cpu".into(), nodes };
        let one = |n: &str| NodePattern::One(n.into());
        let parts = [
            part(vec![one("t1"), one("tt1x"), NodePattern::Range("t9".into(), "t2".into())]),
            part(vec![NodePattern::Glob("conv*".into()), one("nothing like it"), NodePattern::Rest]),
        ];
        let findings = expand_parts(&graph, &parts, "pins").unwrap_err();
        let texts: Vec<String> = findings.iter().map(|f| f.to_string()).collect();
        assert_eq!(texts.len(), 4, "{texts:#?}");
        let unknown = "the model has no node \"tt1x\" (a node is called by its first output)";
        assert_eq!(texts[0], format!("error: pins[0].nodes[1]: {unknown}"));
        assert_eq!(
            texts[1],
            "error: pins[0].nodes[2]: \"t9\" comes after \"t2\" in the graph's order: write \"t2 .. t9\""
        );
        assert_eq!(texts[2], "error: pins[1].nodes[0]: the pattern \"conv*\" matches no node");
        assert!(!texts[3].contains("did you mean"), "{}", texts[3]);
        let typo = expand_parts(&graph, &[part(vec![one("t1O"), one("x1")])], "pins").unwrap_err();
        assert!(typo[1].message.contains("did you mean \"t1\"?"), "{typo:?}");
    }
}
