//! Where operators run and in which batches: problem, timeline, search, explanation.
