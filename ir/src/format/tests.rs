use super::*;
use crate::machine::Device;
use crate::random::{self, Random};

#[test]
fn machines_are_read_back_as_written() {
    for seed in 0..400 {
        let machine = random::machine(&mut Random(seed));
        let text = machine::to_yaml(&machine);
        let back = machine::from_yaml(&text, "m.yaml").unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
        assert_eq!(back, machine, "seed {seed}\n{text}");
        assert_eq!(machine::to_yaml(&back), text, "seed {seed}");
        assert_eq!(machine::from_yaml(&machine::to_json(&machine), "m.json"), Ok(machine), "seed {seed}");
    }
}

#[test]
fn profiles_are_read_back_as_written() {
    for seed in 0..300 {
        let profile = random::profile(&mut Random(seed));
        let text = profile::to_yaml(&profile);
        let back = profile::from_yaml(&text, "p.yaml").unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
        assert_eq!(back, profile, "seed {seed}\n{text}");
        assert_eq!(profile::to_yaml(&back), text, "seed {seed}");
        assert_eq!(profile::from_yaml(&profile::to_json(&profile), "p.json"), Ok(profile), "seed {seed}");
    }
}

#[test]
fn plans_are_read_back_as_written() {
    for seed in 0..500 {
        let plan = random::plan(&mut Random(seed));
        let text = plan::to_yaml(&plan);
        let back = plan::from_yaml(&text, "p.yaml").unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
        assert_eq!(back, plan, "seed {seed}\n{text}");
        assert_eq!(plan::to_yaml(&back), text, "seed {seed}");
        assert_eq!(plan::from_yaml(&plan::to_json(&plan), "p.json").as_ref(), Ok(&plan), "seed {seed}");
        assert_eq!(plan::authored_from_yaml(&text, "p.yaml").as_ref(), Ok(&plan.authored), "seed {seed}");
        let alone = plan::authored_to_yaml(&plan.authored);
        assert_eq!(plan::authored_from_yaml(&alone, "a.yaml").as_ref(), Ok(&plan.authored), "seed {seed}");
        assert!(text.starts_with(&alone), "the authored part stands first, as it stands alone");
    }
}

const SMALL: &str = "\
apiVersion: tandem/v1
kind: Plan
applications:
- name: app
  slo: 400ms
  tenants:
  - name: resnet50
    model: zoo:resnet50
    shapes:
      input: [N, 3, 224, 224]
      463: [2N]
    batches: [1, 2]
    routes:
    - batch: 2
      parts:
      - device: gpu0
        nodes: [conv1 .. relu2, \"fc*\", =a*, input:0]
      - device: cpu
        nodes: [\"*\"]
  edges: [[resnet50, 0]]
";

#[test]
fn a_plan_written_by_hand_is_read() {
    use crate::plan::{BoundDim, NodePattern};
    let authored = plan::authored_from_yaml(SMALL, "p.yaml").unwrap();
    let tenant = &authored.applications[0].tenants[0];
    assert_eq!(tenant.shapes["463"], [BoundDim::Batch(2)]);
    assert_eq!(tenant.shapes["input"][..2], [BoundDim::Batch(1), BoundDim::Fixed(3)]);
    assert_eq!(authored.applications[0].percentile_permille, 990);
    assert_eq!(authored.applications[0].edges, [(0, 0)]);
    let nodes = &tenant.routes[0].parts[0].nodes;
    let expected = [
        NodePattern::Range("conv1".into(), "relu2".into()),
        NodePattern::Glob("fc*".into()),
        NodePattern::One("a*".into()),
        NodePattern::One("input:0".into()),
    ];
    assert_eq!(nodes[..], expected);
    let error = plan::from_yaml(SMALL, "p.yaml").unwrap_err();
    assert!(error.message.contains("--search none"), "{error}");
}

#[test]
fn errors_name_file_line_field_and_expectation() {
    let cases = [
        ("slo: 400ms", "slo: fast", "p.yaml:5:8: applications[0].slo: expected a duration", "found \"fast\""),
        ("kind: Plan", "kind: Profile", "p.yaml:2:7: kind: expected a document of kind \"Plan\"", "found \"Profile\""),
        ("kind: Plan\n", "", "p.yaml:1:1: kind: expected", "found none"),
        ("tandem/v1", "tandem/v9", "p.yaml:1:13: apiVersion: expected \"tandem/v1\"", "found \"tandem/v9\""),
        ("  - name: res", "  - nam: res", "p.yaml:7:5: applications[0].tenants[0]", "unknown field `nam`"),
        (
            "batches: [1, 2]",
            "batches: [1, x]",
            "p.yaml:12:18: applications[0].tenants[0].batches[1]: expected",
            "\"x\"",
        ),
        ("[2N]", "[-2]", "p.yaml:11:13: applications[0].tenants[0].shapes.463[0]: expected a dimension", "-2"),
        ("[resnet50, 0]", "[resnet50, x]", "p.yaml:20:11: applications[0].edges[0]: expected a tenant", "found \"x\""),
        (
            "    - batch: 2\n",
            "    - lanes: 2\n",
            "p.yaml:14:7: applications[0].tenants[0].routes[0]: ",
            "`batch`, found none",
        ),
        ("=a*, input:0", "\"\\\"a .. b\"", "p.yaml:17:40: ", "expected a range"),
        ("[1, 2]", "[1, 2", "p.yaml:", "expected well-formed YAML"),
        ("[1, 2]", "&a [1, 2]", "p.yaml:12:14: expected a plain or quoted value", "found an anchor"),
    ];
    for (old, new, start, end) in cases {
        assert!(SMALL.contains(old), "{old}");
        let error = plan::authored_from_yaml(&SMALL.replacen(old, new, 1), "p.yaml").unwrap_err().to_string();
        assert!(error.starts_with(start) && error.contains(end), "{new}: {error}");
    }
    for (text, message) in
        [("", "none"), ("[]", "expected"), ("a: 1\n---\nb: 1\n", "expected one document"), ("\u{0}", "")]
    {
        let error = machine::from_yaml(text, "m.yaml").unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn rates_are_numbers_of_requests_a_second() {
    let of = |rate: &str| SMALL.replacen("    batches:", &format!("    rate: {rate}\n    batches:"), 1);
    for (text, millirate, written) in [
        ("400", 400_000, "rate: 400\n"),
        ("12.5", 12_500, "rate: 12.5\n"),
        ("\"0.001\"", 1, "rate: 0.001\n"),
        ("7.000", 7_000, "rate: 7\n"),
    ] {
        let authored = plan::authored_from_yaml(&of(text), "p.yaml").unwrap();
        assert_eq!(authored.applications[0].tenants[0].millirate, Some(millirate));
        assert!(plan::authored_to_yaml(&authored).contains(written), "{text}");
    }
    for (text, message) in [
        ("-4", "expected requests a second, to thousandths, such as 400 or 0.125, found \"-4\""),
        ("0.0001", "expected requests a second, to thousandths"),
        ("2000000000", "expected at most 1000000000 requests a second"),
        ("[4]", "expected requests a second such as 400 or 0.125, found sequence"),
    ] {
        let error = plan::authored_from_yaml(&of(text), "p.yaml").unwrap_err();
        assert_eq!((error.line, error.field.as_str()), (12, "applications[0].tenants[0].rate"), "{error}");
        assert!(error.message.starts_with(message), "{error}");
    }
}

#[test]
fn damaged_documents_give_errors_not_panics() {
    let mut r = Random(11);
    let texts: Vec<String> = (0..6)
        .flat_map(|i| {
            let plan = plan::to_yaml(&random::plan(&mut Random(i)));
            [plan, profile::to_yaml(&random::profile(&mut Random(i))), SMALL.into()]
        })
        .collect();
    for round in 0..3000 {
        let mut text: Vec<char> = texts[round % texts.len()].chars().collect();
        for _ in 0..1 + r.below(4) {
            let at = r.below(text.len());
            match r.below(4) {
                0 => text.truncate(at),
                1 => drop(text.drain(at..(at + r.below(20)).min(text.len()))),
                2 => text.insert(at, ['[', '{', '"', ':', '-', '\n', '*', '&', ' ', '\t', '0', '?'][r.below(12)]),
                _ => text.iter_mut().skip(at).take(1).for_each(|c| *c = '9'),
            }
            text.push('\n');
        }
        let text: String = text.into_iter().collect();
        // Any outcome but a panic: what still reads must be written and read again.
        if let Ok(plan) = plan::from_yaml(&text, "p.yaml") {
            assert_eq!(plan::from_yaml(&plan::to_yaml(&plan), "p.yaml"), Ok(plan));
        }
        let _ = profile::from_yaml(&text, "p.yaml");
        let _ = plan::authored_from_yaml(&text, "p.yaml");
    }
}

#[test]
fn a_machine_may_take_its_host_from_where_it_is_read() {
    let text = "apiVersion: tandem/v1\nkind: Machine\nname: m\nhost: auto\ndevices:\n- name: gpu0\n  kind: gpu\n  cores: 8\n  \
        lanes_max: 2\n  memory: 4GiB\n  rates:\n    times_host_permille: 6000\n    flops: {f32: 1T}\n    memory_bandwidth: \
        100GB/s\n    efficiency_permille: 600\n  launch: 10us\n  operator_overhead: 5us\n  engines: [{name: emulated}]\n  \
        emulated: true\nlinks:\n- {from: cpu, to: gpu0, latency: 10us, bandwidth: 6GB/s}\n";
    let host: Device = {
        let machine = (0..).map(|s| random::machine(&mut Random(s)));
        let mut devices = machine.flat_map(|m| m.devices).filter(|d| d.rates.is_some() && d.name != "gpu0");
        devices.next().unwrap()
    };
    let machine = machine::from_yaml_with_host(text, "m.yaml", &host).unwrap();
    assert_eq!(machine.devices[0], host);
    assert_eq!(machine.links[0].from, host.name);
    let (own, rates) = (host.rates.clone().unwrap(), machine.devices[1].rates.clone().unwrap());
    assert_eq!(rates.memory_bytes_per_s, own.memory_bytes_per_s * 6);
    assert_eq!(rates.efficiency_permille, 600);
    assert_eq!(machine::from_yaml(&machine::to_yaml(&machine), "m.yaml"), Ok(machine));
    let bare = Device { rates: None, ..host.clone() };
    let machine = machine::from_yaml_with_host(text, "m.yaml", &bare).unwrap();
    assert_eq!(machine.devices[1].flops_per_s(crate::DType::F32), Some(1_000_000_000_000));
    let error = machine::from_yaml(text, "m.yaml").unwrap_err();
    assert_eq!((error.line, error.field.as_str()), (4, "host"), "{error}");
}
