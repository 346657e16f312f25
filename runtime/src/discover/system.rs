//! Facts of the host, from the operating system's files (Linux), with what the standard library knows elsewhere.

use std::fs;
use std::path::Path;

use tandem_ir::Bytes;

use super::gib;

/// What the operating system says of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemFacts {
    /// Name of the processor.
    pub cpu_model: String,
    /// Cores this process may use: its affinity and its control group's quota respected.
    pub cores: u32,
    /// Hardware threads a core has.
    pub threads_per_core: u32,
    /// Memory this process may use: its control group's limit respected.
    pub memory: Bytes,
    /// Memory of the whole machine.
    pub memory_total: Bytes,
    /// Caches of the first core: `L1d 48K`.
    pub caches: Vec<String>,
    /// Vector extensions.
    pub simd: Vec<String>,
}

impl SystemFacts {
    pub(super) fn for_people(&self) -> Vec<(String, String)> {
        let mut facts = vec![];
        let mut fact = |name: &str, value: String| {
            if !value.is_empty() {
                facts.push((name.to_owned(), value));
            }
        };
        fact("threads per core", self.threads_per_core.to_string());
        fact("caches", self.caches.join(", "));
        fact("simd", self.simd.join(" "));
        if self.memory < self.memory_total {
            fact("memory limit", format!("{} of {} (control group)", gib(self.memory), gib(self.memory_total)));
        }
        facts
    }
}

/// Asks the operating system.
pub fn system_facts() -> SystemFacts {
    facts_under(Path::new("/"))
}

/// As [`system_facts`], with the files under another root, for tests.
pub(super) fn facts_under(root: &Path) -> SystemFacts {
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let cpuinfo = text("proc/cpuinfo");
    let field = |names: &[&str]| names.iter().find_map(|name| line_value(&cpuinfo, name)).map(str::to_owned);
    let model = field(&["model name", "Hardware", "cpu model"]).or_else(|| {
        let board = text("proc/device-tree/model");
        Some(board.trim_matches(['\0', '\n', ' ']).to_owned()).filter(|b| !b.is_empty())
    });
    // The affinity mask and quotas of both kinds of control groups are in it.
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let total = Bytes(line_value(&text("proc/meminfo"), "MemTotal").and_then(kilobytes).unwrap_or(0));
    let limit = memory_limit(root, &text("proc/self/cgroup"));
    SystemFacts {
        cpu_model: model.unwrap_or_else(|| format!("unknown {} processor", std::env::consts::ARCH)),
        cores,
        threads_per_core: threads_per_core(&text("sys/devices/system/cpu/cpu0/topology/thread_siblings_list")),
        memory: limit.filter(|l| total == Bytes::ZERO || *l < total).unwrap_or(total),
        memory_total: total,
        caches: caches(&root.join("sys/devices/system/cpu/cpu0/cache")),
        simd: simd(&field(&["flags", "Features"]).unwrap_or_default()),
    }
}

/// The first `name : value` of a file of such lines.
fn line_value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|l| l.split_once(':'));
    lines.find(|(n, _)| n.trim() == name).map(|(_, value)| value.trim())
}

fn kilobytes(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// How many threads the list of the first core's siblings names: `0-1`, `0,64`.
fn threads_per_core(list: &str) -> u32 {
    let count = |part: &str| -> Option<u32> {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        to.trim().parse::<u32>().ok()?.checked_sub(from.trim().parse().ok()?)?.checked_add(1)
    };
    list.split(',').map(|part| count(part).unwrap_or(0)).sum::<u32>().max(1)
}

/// The least memory limit of the process's control groups and all above them.
fn memory_limit(root: &Path, groups: &str) -> Option<Bytes> {
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(kinds), Some(group)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (mount, file) = match kinds {
            "" => ("sys/fs/cgroup", "memory.max"),
            k if k.split(',').any(|k| k == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let top = root.join(mount);
        let mut folder = top.join(group.trim_start_matches('/'));
        // In a container the group's path may be the host's, and not visible: its parents then lead to the mount
        // itself.
        loop {
            let limit = fs::read_to_string(folder.join(file)).ok().and_then(|t| t.trim().parse::<u64>().ok());
            least = least.into_iter().chain(limit).min();
            if folder == top || !folder.pop() {
                break;
            }
        }
    }
    // Without a limit, version 1 says the largest multiple of a page.
    least.filter(|l| *l > 0 && *l < 1 << 62).map(Bytes)
}

fn caches(folder: &Path) -> Vec<String> {
    let mut found = vec![];
    for index in 0..8 {
        let text = |name: &str| fs::read_to_string(folder.join(format!("index{index}")).join(name)).ok();
        let (Some(level), Some(kind), Some(size)) = (text("level"), text("type"), text("size")) else { break };
        let letter = match kind.trim() {
            "Data" => "d",
            "Instruction" => "i",
            _ => "",
        };
        found.push(format!("L{}{letter} {}", level.trim(), size.trim()));
    }
    found
}

/// Flags that decide how fast kernels are, of x86 and Arm.
const SIMD: [&str; 19] = [
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "asimddp",
    "bf16",
    "i8mm",
    "sve",
];

fn simd(flags: &str) -> Vec<String> {
    let flags: std::collections::HashSet<&str> = flags.split_whitespace().collect();
    SIMD.iter().filter(|name| flags.contains(**name)).map(|name| (*name).to_owned()).collect()
}
