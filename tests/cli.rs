//! The binary as a user meets it: scripts of what is typed and what comes back, runs that are verified, golden plans.

#[path = "cli/binary.rs"]
mod binary;
#[path = "cli/golden.rs"]
mod golden;
#[path = "cli/running.rs"]
mod running;
#[path = "cli/script.rs"]
mod script;

#[test]
fn models_are_listed_and_built() {
    script::run("models.script");
}

#[test]
fn models_are_looked_into() {
    script::run("import.script");
}

#[test]
fn machines_are_shown() {
    script::run("machines.script");
}

#[test]
fn plans_are_made_checked_compared_and_mended() {
    script::run("plan.script");
}

#[test]
fn plans_are_explained() {
    script::run("explain.script");
}

#[test]
fn plans_of_several_tenants_are_made_run_and_made_again() {
    script::run("tenants.script");
}

#[test]
fn serving_sections_are_filled_and_kept() {
    script::run("serving.script");
}

#[test]
fn plans_are_simulated() {
    script::run("simulate.script");
}

#[test]
fn batching_is_told_with_its_closed_forms_and_claims() {
    script::run("simulate-adt.script");
}

#[test]
fn a_gpu_is_checked_by_the_binary_alone() {
    script::run("gpu.script");
}

#[test]
fn wrong_words_are_refused() {
    script::run("words.script");
}
