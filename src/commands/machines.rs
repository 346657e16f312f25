//! `tandem machines`: processors, memory, links, engines, and how to get what is missing.

use anyhow::Result;
use tandem_ir::{DeviceKind, Machine};

use crate::cli::{Format, MachinesArgs};
use crate::context::Context;
use crate::output::print;

/// Shows this machine or a described one.
pub fn run(context: &Context, args: &MachinesArgs) -> Result<()> {
    let described = args.machine.as_ref().map(|p| p.display().to_string());
    let machine = context.machine(described.as_deref().unwrap_or("auto"))?;
    match args.format {
        Format::Yaml => print(&tandem_ir::format::machine::to_yaml(&machine)),
        Format::Json => print(&tandem_ir::format::machine::to_json(&machine)),
        Format::Text => print(&(text(&machine) + &if described.is_none() { missing(context) } else { String::new() })),
    }
}

fn text(machine: &Machine) -> String {
    let mut text = format!("{}: {}\n", machine.name, machine.description);
    for device in &machine.devices {
        let unit = if device.kind == DeviceKind::Cpu { "cores" } else { "multiprocessors" };
        let emulated = if device.emulated { ", emulated" } else { "" };
        text += &format!(
            "\n{}: {} ({} {unit}, {} memory{emulated})\n",
            device.name, device.model, device.cores, device.memory
        );
        for engine in &device.engines {
            text += format!("  engine       {} {}", engine.name, engine.version).trim_end();
            text += "\n";
        }
        if let Some(rates) = &device.rates {
            let peaks: Vec<String> =
                rates.flops_per_s.iter().map(|(t, r)| format!("{:.1} Tflop/s {t}", *r as f64 / 1e12)).collect();
            text += &format!("  peak         {}\n", peaks.join(", "));
            text += &format!("  bandwidth    {:.0} GB/s\n", rates.memory_bytes_per_s as f64 / 1e9);
        }
        for (key, value) in &device.facts {
            text += &format!("  {key:<12} {value}\n");
        }
    }
    for link in &machine.links {
        text += &format!(
            "\n{} -> {}: {} latency, {:.1} GB/s{}\n",
            link.from,
            link.to,
            link.latency,
            link.bytes_per_s as f64 / 1e9,
            if link.shared { ", one copy engine for both directions" } else { "" }
        );
    }
    for source in &machine.sources {
        text += &format!("\nsource: {source}");
    }
    text.trim_end().to_owned() + "\n"
}

/// Engines present and missing, where they were looked for, and how to get them.
fn missing(context: &Context) -> String {
    let mut text = String::from("\nengines\n");
    for engine in tandem_runtime::discover::engines(&context.ort_status(), context.gpus()) {
        text += &format!("  {:<12} {}\n", engine.name, engine.version.as_deref().unwrap_or("not here"));
        let note = if engine.version.is_some() { "found at" } else { "looked in" };
        engine.places.iter().for_each(|place| text += &format!("    {note}: {place}\n"));
        engine.get.iter().for_each(|how| text += &format!("    to get it: {how}\n"));
    }
    text
}
