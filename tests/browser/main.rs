//! What people open in a browser, in a real one: headless Chromium, driven by ChromeDriver.
//!
//! `TANDEM_CHROMEDRIVER` names the program; without it the suite says that it is skipped (`.ci/run` always has it). Pictures
//! of the pages, light and dark, are left in `target/tmp/browser`, for people to look at.

#[path = "../cli/binary.rs"]
mod binary;
mod chromium;
mod explain;
