//! Imports models and writes the whole cut image and random pieces of each, for checking with an engine outside.
//!
//! `cut_pieces OUT LABELS < LIST`: for line `i` of LIST (a model's path), OUT gets `i.whole.onnx`, `i.KofN.onnx` (weights
//! inline) and, where weights are beside, `i.refs.onnx` with `i.refs/NAME-INDEX.bin`. One line a model goes to stdout:
//! `i ok PIECES` or `i error MESSAGE`. LABELS: a piece's nodes get one of so many labels by a hash of their place.

use std::error::Error;
use std::io::BufRead;
use std::path::Path;

use tandem_ir::segment;
use tandem_onnx::cut::{SegmentImage, boundary, cut, cut_whole};
use tandem_onnx::import::{Model, import};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(out), Some(labels)) = (args.next(), args.next()) else {
        return Err("usage: cut_pieces OUT LABELS < LIST".into());
    };
    let labels: usize = labels.parse()?;
    for (i, line) in std::io::stdin().lock().lines().enumerate() {
        let written = import(Path::new(&line?)).map_err(Into::into).and_then(|m| write(&m, Path::new(&out), i, labels));
        match written {
            Ok(pieces) => println!("{i} ok {pieces}"),
            Err(error) => println!("{i} error {error}"),
        }
    }
    Ok(())
}

fn write(model: &Model, out: &Path, i: usize, labels: usize) -> Result<usize, Box<dyn Error>> {
    let whole = cut_whole(model)?;
    std::fs::write(out.join(format!("{i}.whole.onnx")), whole.inline())?;
    if !whole.weights.is_empty() {
        write_references(&whole, out, i)?;
    }
    let graph = &model.graph;
    let mut label: Vec<usize> = graph
        .node_ids()
        .map(|n| (u64::from(n.0 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize % labels)
        .collect();
    // Values that cannot cross keep their nodes together.
    for _ in 0..graph.nodes.len().min(64) {
        segment::uncuttable(graph).iter().for_each(|(a, b)| label[b.index()] = label[a.index()]);
    }
    let groups = segment::form(graph, &label);
    let count = groups.len();
    for (k, (_, nodes)) in groups.into_iter().enumerate() {
        let (inputs, outputs) = boundary(graph, &nodes);
        let image = cut(model, &nodes, &inputs, &outputs)?;
        std::fs::write(out.join(format!("{i}.{k}of{count}.onnx")), image.inline())?;
    }
    Ok(count)
}

fn write_references(image: &SegmentImage, out: &Path, i: usize) -> Result<(), Box<dyn Error>> {
    let folder = out.join(format!("{i}.refs"));
    std::fs::create_dir_all(&folder)?;
    std::fs::write(out.join(format!("{i}.refs.onnx")), &image.model[..])?;
    let mut index = String::new();
    for (k, weight) in image.weights.iter().enumerate() {
        std::fs::write(folder.join(format!("{k}.bin")), &weight.data[..])?;
        let dims: Vec<String> = weight.dims.iter().map(u64::to_string).collect();
        index += &format!("{k}\t{}\t{}\t{}\n", weight.dtype.onnx_code(), dims.join(","), weight.name);
    }
    std::fs::write(folder.join("index"), index)?;
    Ok(())
}
