//! How much of a graph is drawn. What is not drawn stands in the page's tables.

/// Boxes of atoms in one graph. ResNet-50 has 72 atoms, which fill a screen; beyond a hundred nobody follows an edge any
/// more.
pub(super) const BOXES_MAX: usize = 100;

/// Inputs (or outputs) that have a box each: a model with key and value of every layer has dozens, which would push
/// everything else aside.
pub(super) const ENDS_MAX: usize = 8;

/// Boxes side by side: six fill a page's width.
pub(super) const ROW_BOXES_MAX: usize = 6;

/// Passes over the rows, to order them and then to place what is in them. After a dozen nothing moves that eyes could see.
pub(super) const SWEEPS: usize = 12;

/// Names that a box lists at the pointer; the table of operators has all.
pub(super) const NAMES_MAX: usize = 12;
