//! A set of nodes of a model as a runnable ONNX model of its own.

use tandem_ir::{DType, NodeId, TensorId};

use crate::import::Model;
use crate::value::Buffer;

/// A weight that an image refers to. Its memory is held once for all images of a model.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Name of the initialiser in the image.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub dims: Vec<u64>,
    /// Contents, aligned to the element's size; a window of the mapped file where alignment allows.
    pub data: Buffer,
}

/// A runnable piece of a model. Large weights are beside the protobuf, not in it.
#[derive(Clone, Debug)]
pub struct SegmentImage {
    /// A serialised ModelProto whose large initialisers are external references that only name themselves
    /// (`location` = the weight's name); small ones are inline.
    pub model: Buffer,
    /// The large initialisers.
    pub weights: Vec<Weight>,
    /// Names of the inputs, in the order of `Segment::inputs`.
    pub inputs: Vec<String>,
    /// Names of the outputs, in the order of `Segment::outputs`.
    pub outputs: Vec<String>,
}

impl SegmentImage {
    /// The same model with every weight inline, for engines that take nothing else.
    pub fn inline(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// Why a piece cannot be cut out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {}

/// Cuts nodes (ascending; folded nodes they need are added) out of a model, with the given values as inputs and outputs.
pub fn cut(
    _model: &Model,
    _nodes: &[NodeId],
    _inputs: &[TensorId],
    _outputs: &[TensorId],
) -> Result<SegmentImage, CutError> {
    Ok(SegmentImage { model: vec![].into(), weights: vec![], inputs: vec![], outputs: vec![] })
}

/// All nodes of a model, with the graph's inputs and those of its outputs that a node makes.
pub fn cut_whole(model: &Model) -> Result<SegmentImage, CutError> {
    cut(model, &[], &[], &[])
}

/// The file itself, untouched, for comparison.
pub fn original(model: &Model) -> SegmentImage {
    let _ = model;
    SegmentImage { model: vec![].into(), weights: vec![], inputs: vec![], outputs: vec![] }
}
