//! The nouns of tandem: graph, machine, profile, plan, their checks and their file formats.
