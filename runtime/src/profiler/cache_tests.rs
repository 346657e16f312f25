//! Kept numbers come back, damaged files do not, and writers do not undo each other.

use super::*;

fn setting(batch: u64) -> Setting {
    Setting { device: "cpu".into(), engine: "tract".into(), threads: 2, batch }
}

fn timing(median: u64) -> Timing {
    Timing { median: Nanos(median), spread: Nanos(3), repeats: 7, method: Method::Isolated }
}

fn open(folder: &Path) -> Cache {
    Cache::open(folder, "tract", "0.23.9", "a processor; 2 cores; avx2")
}

fn file(folder: &Path) -> PathBuf {
    std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
}

#[test]
fn what_was_saved_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("made/when/saved");
    let signature = Signature("Conv+Relu-0123456789abcdef".into());
    let graph = Fingerprint::of(b"graph");
    let cost = SessionCost { launch_ns: 5_000, launch_spread_ns: 10, timing_overhead_ns: 2_000, repeats: 40 };
    let atoms = vec![Atom { nodes: vec![NodeId(0), NodeId(3)], signature: signature.clone() }];
    let mut cache = open(&folder);
    assert_eq!(cache.sample(&signature, &setting(1)), None);
    cache.put_sample(&signature, &setting(1), timing(1234));
    cache.put_cost(&setting(0), cost);
    cache.put_table(graph, "cpu", 2, atoms.clone());
    cache.put_note(graph, "proof", &Some("why".to_owned()));
    cache.save().unwrap();
    let again = open(&folder);
    assert_eq!(again.warning, None);
    assert_eq!(again.sample(&signature, &setting(1)), Some(timing(1234)));
    assert_eq!(again.sample(&signature, &setting(2)), None);
    assert_eq!(again.cost(&setting(0)), Some(cost));
    assert_eq!(again.table(graph, "cpu", 2), Some(atoms.as_slice()));
    assert_eq!(again.table(graph, "cpu", 1), None);
    assert_eq!(again.note::<Option<String>>(graph, "proof"), Some(Some("why".to_owned())));
    assert_eq!(Cache::open(&folder, "tract", "0.24.0", "a processor; 2 cores; avx2").table(graph, "cpu", 2), None);
    assert_eq!(Cache::open(&folder, "tract", "0.23.9", "another").table(graph, "cpu", 2), None);
}

#[test]
fn writers_keep_what_others_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Signature("A-1".into()), Signature("B-2".into()));
    let (mut one, mut two) = (open(folder.path()), open(folder.path()));
    one.put_sample(&a, &setting(1), timing(1));
    two.put_sample(&b, &setting(1), timing(2));
    one.save().unwrap();
    two.save().unwrap();
    let both = open(folder.path());
    assert_eq!((both.sample(&a, &setting(1)), both.sample(&b, &setting(1))), (Some(timing(1)), Some(timing(2))));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside the file");
}

#[test]
fn a_damaged_file_is_ignored_and_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let signature = Signature("A-1".into());
    let mut cache = open(folder.path());
    cache.put_sample(&signature, &setting(1), timing(1));
    cache.save().unwrap();
    let path = file(folder.path());
    let whole = std::fs::read(&path).unwrap();
    let other_version =
        String::from_utf8(whole.clone()).unwrap().replace(&format!("\"version\":{VERSION}"), "\"version\":999");
    for bad in [&whole[..whole.len() / 2], b"", b"[]", b"\xff\xfe", other_version.as_bytes()] {
        std::fs::write(&path, bad).unwrap();
        let mut damaged = open(folder.path());
        assert!(damaged.warning.as_ref().is_some_and(|w| w.contains("ignored")), "{:?}", damaged.warning);
        assert_eq!(damaged.sample(&signature, &setting(1)), None);
        damaged.put_sample(&signature, &setting(1), timing(2));
        damaged.save().unwrap();
        assert_eq!(open(folder.path()).sample(&signature, &setting(1)), Some(timing(2)));
    }
}

#[test]
fn nothing_new_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).save().unwrap();
    Cache::in_memory().save().unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
