//! Every model of a folder: imported, cut whole, and cut into pieces of three labels.
//!
//! The folder is named by `TANDEM_ONNX_TESTDATA` (`backend/test/data` of the Python package `onnx`); without it the test
//! says that it skipped.

use std::path::{Path, PathBuf};

use tandem_ir::segment;
use tandem_onnx::cut::{CutError, boundary, cut, cut_whole, original};
use tandem_onnx::import::import;

fn models(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            models(&path, found);
        } else if path.extension().is_some_and(|e| e == "onnx") {
            found.push(path);
        }
    }
}

#[test]
fn the_test_suites_models_are_imported_and_cut() {
    let Some(folder) = std::env::var_os("TANDEM_ONNX_TESTDATA") else {
        println!("skipped: TANDEM_ONNX_TESTDATA is not set");
        return;
    };
    let mut paths = vec![];
    models(Path::new(&folder), &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "no model in {}", folder.display());
    let (mut pieces, mut untyped) = (0, 0);
    for path in &paths {
        let model = import(path).unwrap_or_else(|e| panic!("{e}"));
        let whole = cut_whole(&model).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(&original(&model).model[..], std::fs::read(path).expect("read"));
        assert!(whole.inline().len() >= whole.model.len().min(1));
        let labels: Vec<usize> = model.graph.node_ids().map(|n| n.index() % 3).collect();
        for (_, nodes) in segment::form(&model.graph, &labels) {
            let (inputs, outputs) = boundary(&model.graph, &nodes);
            match cut(&model, &nodes, &inputs, &outputs) {
                Ok(_) => pieces += 1,
                // The files state few inner types.
                Err(CutError::Untyped { .. }) => untyped += 1,
                Err(e) => panic!("{}: {e}", path.display()),
            }
        }
    }
    println!("{} models, {pieces} pieces, {untyped} not cut for want of a type", paths.len());
}
