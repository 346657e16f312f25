use std::fs;
use std::path::Path;

use tandem_ir::{Bytes, DeviceKind};

use super::*;

fn file(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn the_host_has_cores_and_memory() {
    let facts = system_facts();
    assert!(facts.cores >= 1 && facts.threads_per_core >= 1 && !facts.cpu_model.is_empty());
    if cfg!(target_os = "linux") {
        assert!(facts.memory > Bytes(64 << 20) && facts.memory <= facts.memory_total, "{facts:?}");
    }
}

#[test]
fn limits_of_control_groups_are_respected() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    file(&at("proc/meminfo"), "MemTotal:       1000 kB\nMemFree: 1 kB\n");
    file(&at("proc/cpuinfo"), "processor : 0\nmodel name : Fast CPU @ 1\nflags : fpu avx2 sse4_2 fma\n");
    file(&at("sys/devices/system/cpu/cpu0/topology/thread_siblings_list"), "0,64\n");
    for (i, (level, kind, size)) in
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2048K")].into_iter().enumerate()
    {
        let index = at(&format!("sys/devices/system/cpu/cpu0/cache/index{i}"));
        file(&index.join("level"), level);
        file(&index.join("type"), kind);
        file(&index.join("size"), size);
    }
    let facts = || system::facts_under(root.path());
    assert_eq!(facts().memory, Bytes(1_024_000));
    assert_eq!((facts().cpu_model.as_str(), facts().threads_per_core), ("Fast CPU @ 1", 2));
    assert_eq!(facts().caches, ["L1d 48K", "L1i 32K", "L2 2048K"]);
    assert_eq!(facts().simd, ["sse4_2", "fma", "avx2"]);

    // Version 2: the parent's limit counts too; "max" is none.
    file(&at("proc/self/cgroup"), "0::/pod/app\n");
    file(&at("sys/fs/cgroup/pod/app/memory.max"), "max\n");
    file(&at("sys/fs/cgroup/pod/memory.max"), "500000\n");
    assert_eq!(facts().memory, Bytes(500_000));
    assert!(facts().for_people().iter().any(|(name, value)| name == "memory limit" && value.contains("0.0 GiB")));

    // Version 1: no limit is a huge one; a path of the host's is looked through.
    file(&at("proc/self/cgroup"), "5:devices:/x\n4:memory:/far/away\n0::/\n");
    file(&at("sys/fs/cgroup/memory/memory.limit_in_bytes"), "9223372036854771712\n");
    assert_eq!(facts().memory, Bytes(1_024_000));
    file(&at("sys/fs/cgroup/memory/far/memory.limit_in_bytes"), "300000\n");
    assert_eq!(facts().memory, Bytes(300_000));
}

#[test]
fn an_empty_root_is_no_panic() {
    let root = tempfile::tempdir().unwrap();
    let facts = system::facts_under(root.path());
    assert!(facts.cpu_model.starts_with("unknown") && facts.threads_per_core == 1 && facts.memory == Bytes(0));
}

#[test]
fn cuda_can_be_asked_anywhere() {
    match gpus() {
        Ok(found) => assert!(found.iter().all(|g| !g.name.is_empty() && g.memory > Bytes(0))),
        Err(why) => assert!(why.contains("CUDA"), "{why}"),
    }
}

#[test]
fn a_pcie_connection_is_read() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(cuda::pcie(folder.path()), None);
    file(&folder.path().join("max_link_speed"), "16.0 GT/s PCIe\n");
    file(&folder.path().join("max_link_width"), "16\n");
    assert_eq!(cuda::pcie(folder.path()), Some((16_000_000_000, 16)));
    let gpu = Gpu { pcie: Some((16_000_000_000, 16)), ..Gpu::default() };
    assert_eq!(gpu.link_bytes_per_s(), 25_600_000_000);
    file(&folder.path().join("max_link_speed"), "Unknown\n");
    assert_eq!(cuda::pcie(folder.path()), None);
}

#[test]
fn a_machine_lists_what_is_there() {
    let facts = SystemFacts { cpu_model: "C".into(), cores: 4, memory: Bytes(8 << 30), ..Default::default() };
    let ort = OrtStatus { library: Some("l.so".into()), version: Some("1.31.1".into()), cuda: true, looked: vec![] };
    let alone = machine(&OrtStatus::default(), &facts, &Err("none".into()));
    assert_eq!((alone.name.as_str(), alone.description.as_str()), ("this-cpu", "C, 4 cores, 8 GiB"));
    assert_eq!(alone.devices[0].engines.len(), 1);
    assert_eq!(alone.devices[0].engine().unwrap().name, "tract");
    assert!(alone.devices[0].rates.is_none() && alone.links.is_empty());

    let gpu = Gpu { name: "G".into(), memory: Bytes(16 << 30), copy_engines: 1, multiprocessors: 40, ..Gpu::default() };
    let both = machine(&ort, &facts, &Ok(vec![gpu.clone(), gpu]));
    assert_eq!(both.name, "this-machine");
    assert_eq!(both.devices[0].engine().unwrap().name, "ort");
    assert_eq!((both.devices[2].name.as_str(), both.devices[2].kind), ("gpu1", DeviceKind::Gpu));
    assert_eq!(both.devices[1].engine().unwrap().name, "ort-cuda");
    assert_eq!(both.links.len(), 4);
    assert!(both.link("cpu", "gpu1").unwrap().shared && both.link("gpu0", "cpu").is_some());
}

#[test]
fn engines_say_how_to_get_what_is_missing() {
    let none = Err("no CUDA driver".to_owned());
    let lookup = OrtLookup { found: None, looked: vec!["system: x: not there".into()] };
    let missing = engines(&OrtStatus::new(lookup, None), &none);
    assert_eq!(missing.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["tract", "ort", "ort-cuda"]);
    assert!(missing[0].version.is_some() && missing[0].get.is_none());
    assert!(missing[1].version.is_none() && missing[1].get.as_ref().unwrap().contains("pip install onnxruntime"));
    assert_eq!(missing[1].places, ["system: x: not there"]);
    assert_eq!(missing[2].get, None, "a GPU build is of no use without a GPU");

    let gpu = Ok(vec![Gpu::default()]);
    let lookup = OrtLookup { found: Some("/x/libonnxruntime.so".into()), looked: vec![] };
    let status = OrtStatus::new(lookup.clone(), Some(Ok("1.31.1".into())));
    let found = engines(&status, &gpu);
    assert_eq!((found[1].version.as_deref(), found[1].get.as_ref()), (Some("1.31.1"), None));
    assert!(found[2].get.as_ref().unwrap().contains("onnxruntime-gpu"));

    let broken = OrtStatus::new(lookup, Some(Err("bad image".into())));
    let broken = engines(&broken, &none);
    assert!(broken[1].version.is_none() && broken[1].places[1].contains("bad image"));
}

/// Places without the process's own surroundings.
fn nowhere() -> Places {
    Places::default()
}

#[test]
fn a_flag_is_the_only_place() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libonnxruntime.so.1.2.3");
    fs::write(&library, "").unwrap();
    let places = Places { dylib_path: Some(library.clone()), ..nowhere() };
    let missing = find_onnxruntime_in(Some(Path::new("/no/such/file")), &places);
    assert_eq!(missing.found, None);
    assert_eq!(missing.looked, ["the flag: /no/such/file: not there"]);
    assert_eq!(find_onnxruntime_in(Some(&library), &nowhere()).found, Some(library.clone()));
    assert_eq!(find_onnxruntime_in(Some(folder.path()), &nowhere()).found, Some(library));
}

#[test]
fn places_are_tried_in_order_and_the_newest_is_taken() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    let capi = "lib/python3.11/site-packages/onnxruntime/capi";
    for path in [
        "venv/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.9.2",
        "venv/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.31.1",
        "venv/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime_providers_shared.so",
        "venv/lib/python3.11/site-packages/onnxruntime/capi/onnxruntime_pybind11_state.cpython-311-x86_64-linux-gnu.so",
        "system/libonnxruntime.so",
        "bin/lib/libonnxruntime.1.20.0.dylib",
    ] {
        file(&at(path), "");
    }
    let mut places = Places {
        dylib_path: Some(at("gone.so")),
        binary_folder: None,
        environments: vec![("CONDA_PREFIX".into(), at("empty")), ("VIRTUAL_ENV".into(), at("venv"))],
        python: Some(at("no-python")),
        system: vec![at("nothing"), at("system")],
    };
    let found = find_onnxruntime_in(None, &places);
    assert_eq!(found.found, Some(at("venv").join(capi).join("libonnxruntime.so.1.31.1")));
    assert_eq!(found.looked.len(), 3, "{:?}", found.looked);
    places.environments.clear();
    let found = find_onnxruntime_in(None, &places);
    assert_eq!(found.found, Some(at("system/libonnxruntime.so")));
    assert_eq!(found.looked.len(), 4, "{:?}", found.looked);
    places.binary_folder = Some(at("bin"));
    assert_eq!(find_onnxruntime_in(None, &places).found, Some(at("bin/lib/libonnxruntime.1.20.0.dylib")));
    assert_eq!(find_onnxruntime_in(None, &nowhere()), OrtLookup::default());
}

#[test]
fn the_cuda_provider_lies_beside_the_library() {
    let folder = tempfile::tempdir().unwrap();
    assert!(!has_cuda_provider(folder.path()));
    file(&folder.path().join("libonnxruntime_providers_cuda.so"), "");
    assert!(!has_cuda_provider(folder.path()), "nothing reaches it");
    file(&folder.path().join("libonnxruntime_providers_shared.so"), "");
    assert!(has_cuda_provider(folder.path()));
}

#[test]
fn quick_rates_are_of_this_world() {
    let rates = rates::quick_rates(1);
    assert!(rates.f32_flops_per_s > 10_000_000 && rates.memory_bytes_per_s > 10_000_000, "{rates:?}");
    assert_eq!(rates::quick_rates(0).threads, 1);
}

#[cfg(unix)]
#[test]
fn a_link_to_the_library_leads_to_its_providers() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    for path in [
        "real/libonnxruntime.so.1.31.1",
        "real/libonnxruntime_providers_cuda.so",
        "real/libonnxruntime_providers_shared.so",
    ] {
        file(&at(path), "");
    }
    fs::create_dir(at("links")).unwrap();
    std::os::unix::fs::symlink(at("real/libonnxruntime.so.1.31.1"), at("links/libonnxruntime.so")).unwrap();
    let lookup = OrtLookup { found: Some(at("links/libonnxruntime.so")), looked: vec![] };
    assert!(OrtStatus::new(lookup, None).cuda);
}
