//! `tandem models`: list, build, fetch.

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::cli::{Format, ModelsAction, ModelsArgs};
use crate::context::Context;
use crate::output::{print, print_as, table};

/// Runs one of the actions.
pub fn run(context: &Context, args: &ModelsArgs) -> Result<()> {
    match &args.action {
        ModelsAction::List { format } => list(*format),
        ModelsAction::Build { name, output, seed } => {
            let seed = seed.unwrap_or(tandem_models::DEFAULT_SEED);
            tandem_models::build_to(name, seed, output)?;
            context.say(&format!("{}: {name}, seed {seed}", output.display()));
            Ok(())
        }
        ModelsAction::Fetch { names, all } => {
            let names: Vec<&str> = match all {
                true => tandem_models::manifest().iter().map(|m| m.name.as_str()).collect(),
                false => names.iter().map(String::as_str).collect(),
            };
            for name in names {
                for path in tandem_models::fetch(
                    name,
                    &context.models_dir(),
                    tandem_models::Installer::Pip(Path::new("python3")),
                )? {
                    print(&format!("{}\n", path.display()))?;
                }
            }
            Ok(())
        }
    }
}

fn list(format: Format) -> Result<()> {
    let built: Vec<_> = tandem_models::zoo().iter().map(|m| (m, m.stats())).collect();
    let data = json!({
        "zoo": built.iter().map(|(m, s)| json!({
            "name": m.name, "summary": m.summary, "tiny": m.tiny, "nodes": s.nodes, "parameters": s.parameters,
        })).collect::<Vec<_>>(),
        "fetched": tandem_models::manifest().iter().map(|m| json!({
            "name": m.name, "package": m.package, "version": m.version, "licence": m.licence, "notes": m.notes,
        })).collect::<Vec<_>>(),
    });
    print_as(format, &data, || {
        let rows: Vec<Vec<String>> = built
            .iter()
            .map(|(m, s)| {
                let millions = format!("{:.1}M", s.parameters as f64 / 1e6);
                vec![format!("zoo:{}", m.name), s.nodes.to_string(), millions, m.summary.to_owned()]
            })
            .collect();
        let mut text = String::from("Built here, weights from a seed:\n");
        text += &columns(&["model", "nodes", "parameters", "what"], &rows);
        let rows: Vec<Vec<String>> = tandem_models::manifest()
            .iter()
            .map(|m| vec![format!("fetched:{}", m.name), format!("{} {}", m.package, m.version), m.licence.clone()])
            .collect();
        text += "\nReal models out of published packages (tandem models fetch NAME):\n";
        text + &columns(&["model", "package", "licence"], &rows)
    })
}

/// A table whose last column, being text, is left-aligned.
fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let last = header.len() - 1;
    let head = table(&header[..last], &rows.iter().map(|r| r[..last].to_vec()).collect::<Vec<_>>());
    let texts = std::iter::once(header[last]).chain(rows.iter().map(|r| r[last].as_str()));
    let width = head.lines().map(|l| l.chars().count()).max().unwrap_or(0);
    head.lines().zip(texts).map(|(l, t)| format!("{l:<width$}  {t}\n")).collect()
}
