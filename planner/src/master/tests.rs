use super::*;
use crate::testing::Rng;

fn column(tenant: usize, batch: u64, busy: &[u64], memory: &[u64]) -> Column {
    let busy = busy.iter().map(|b| Nanos(*b)).collect();
    Column { tenant, batch, busy, memory: memory.iter().map(|m| Bytes(*m)).collect() }
}

fn master(millirate: &[u64], instances: &[u64], memory: &[u64]) -> Master {
    let memory = memory.iter().map(|m| Bytes(*m)).collect();
    Master { millirate: millirate.to_vec(), instances: instances.to_vec(), memory }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * a.abs().max(b.abs()).max(1e-12)
}

const MS: u64 = 1_000_000;

#[test]
fn two_processors_are_filled() {
    // Alone on either: 100 and 50 items a second. Both together carry 150.
    let columns = [column(0, 1, &[0, 10 * MS], &[0, 0]), column(0, 1, &[20 * MS, 0], &[0, 0])];
    let of: Vec<&Column> = columns.iter().collect();
    let master = master(&[1000], &[1, 1], &[1, 1]);
    let fluid = master.fluid(&of).expect("solved");
    assert!(close(fluid.lambda, 150.0), "{fluid:?}");
    assert!(close(fluid.items[0], 100.0) && close(fluid.items[1], 50.0), "{fluid:?}");
    assert_eq!(fluid.price, [PRICE_MAX / 2, PRICE_MAX], "what the tenth of a second is worth on each");
    let chosen = master.choose(&of, 1, NODES_MAX).expect("solved").expect("one fits");
    assert_eq!((chosen.routes.len(), chosen.routes[0].0, chosen.is_best), (1, 0, true));
    assert!(close(chosen.lambda, 100.0));
    let chosen = master.choose(&of, 2, NODES_MAX).expect("solved").expect("both fit");
    let shares = [(&columns[0], 667), (&columns[1], 333)];
    assert!(close(chosen.lambda, 150.0));
    assert_eq!(master.carried(&shares), (149_925_037, vec![998_501, 1_000_000]));
}

#[test]
fn rates_and_instances_count() {
    // Four lanes of a CPU; the second tenant wants three times as much, and its batches carry four.
    let columns = [column(0, 1, &[10 * MS], &[0]), column(1, 4, &[20 * MS], &[0])];
    let of: Vec<&Column> = columns.iter().collect();
    let fluid = master(&[1000, 3000], &[4], &[1]).fluid(&of).expect("solved");
    // 10 ms + 3 x 5 ms for one of the first and three of the second, of 4 s a second.
    assert!(close(fluid.lambda, 160.0), "{fluid:?}");
    assert!(close(fluid.items[1], 480.0), "{fluid:?}");
}

#[test]
fn a_tenant_without_columns_is_named() {
    let columns = [column(0, 1, &[1], &[0])];
    let of: Vec<&Column> = columns.iter().collect();
    let master = master(&[1, 1], &[1], &[1]);
    assert_eq!(master.fluid(&of), Err(MasterError::NoColumn { tenant: 1 }));
    assert_eq!(master.choose(&of, 2, NODES_MAX), Ok(None));
}

#[test]
fn what_does_not_fit_together_is_not_kept() {
    // The fast routes need the memory of the device for themselves.
    let columns = [
        column(0, 1, &[0, MS], &[0, 6]),
        column(1, 1, &[0, MS], &[0, 6]),
        column(0, 1, &[10 * MS, 0], &[3, 0]),
        column(1, 1, &[20 * MS, 0], &[3, 0]),
    ];
    let of: Vec<&Column> = columns.iter().collect();
    let master = master(&[1000, 1000], &[1, 1], &[10, 10]);
    let chosen = master.choose(&of, 2, NODES_MAX).expect("solved").expect("some fit");
    assert!(chosen.is_best && close(chosen.lambda, 100.0), "{chosen:?}");
    assert_eq!(chosen.routes.iter().map(|r| r.0).collect::<Vec<_>>(), [1, 2]);
    let none = [column(0, 1, &[1, 1], &[11, 0])];
    assert_eq!(
        Master { millirate: vec![1], ..master }.choose(&none.iter().collect::<Vec<_>>(), 1, NODES_MAX),
        Ok(None)
    );
}

fn random(rng: &mut Rng) -> (Master, Vec<Column>) {
    let (tenants, resources) = (1 + rng.below(3) as usize, 1 + rng.below(3) as usize);
    let mut columns = vec![];
    for tenant in 0..tenants {
        for _ in 0..1 + rng.below(4) {
            let busy: Vec<u64> = (0..resources).map(|_| rng.below(50) * MS / 10).collect();
            let memory: Vec<u64> = (0..2).map(|_| rng.below(6)).collect();
            columns.push(column(tenant, 1 << rng.below(4), &busy, &memory));
        }
    }
    let millirate: Vec<u64> = (0..tenants).map(|_| 500 + rng.below(5000)).collect();
    let instances: Vec<u64> = (0..resources).map(|_| 1 + rng.below(4)).collect();
    (master(&millirate, &instances, &[8, 8]), columns)
}

#[test]
fn the_choice_is_the_best_of_all_subsets() {
    let mut rng = Rng::new(7);
    for case in 0..400 {
        let (master, columns) = random(&mut rng);
        let of: Vec<&Column> = columns.iter().collect();
        let chosen = master.choose(&of, 2, NODES_MAX).expect("solved");
        let mut best = 0.0f64;
        for set in 1u32..1 << columns.len() {
            let some: Vec<&Column> = (0..columns.len()).filter(|c| set >> c & 1 == 1).map(|c| &columns[c]).collect();
            let few = (0..master.millirate.len()).all(|t| some.iter().filter(|c| c.tenant == t).count() <= 2);
            let fits = (0..2).all(|d| some.iter().map(|c| c.memory[d].0).sum::<u64>() <= master.memory[d].0);
            if few
                && fits
                && let Ok(fluid) = master.fluid(&some)
            {
                best = best.max(fluid.lambda);
            }
        }
        match chosen {
            None => assert_eq!(best, 0.0, "case {case}"),
            Some(chosen) => {
                assert!(chosen.is_best, "case {case}");
                assert!((chosen.lambda - best).abs() <= 2e-6 * best, "case {case}: {} of {best}", chosen.lambda);
            }
        }
    }
}

/// At the prices of the fluid program the bound is its value; at any others it is above it.
#[test]
fn bounds_hold_at_any_prices() {
    let mut rng = Rng::new(11);
    for case in 0..1000 {
        let (master, columns) = random(&mut rng);
        let of: Vec<&Column> = columns.iter().collect();
        let fluid = master.fluid(&of).expect("solved");
        let floor = |price: &[u64]| -> Vec<(u128, u64)> {
            let priced =
                |c: &Column| c.busy.iter().zip(price).map(|(b, p)| u128::from(b.0) * u128::from(*p)).sum::<u128>();
            let of_tenant = |t: usize| columns.iter().filter(move |c| c.tenant == t).map(|c| (priced(c), c.batch));
            let least = |t: usize| of_tenant(t).min_by(|a, b| (a.0 * u128::from(b.1)).cmp(&(b.0 * u128::from(a.1))));
            (0..master.millirate.len()).map(|t| least(t).expect("it has columns")).collect()
        };
        let value = fluid.lambda * 1e6;
        let at = master.bound(&fluid.price, &floor(&fluid.price)) as f64;
        // What takes no time has no bound.
        if value.is_finite() && at < 1e18 {
            assert!(at >= value * (1.0 - 1e-9) && at <= value * 1.0001 + 1.0, "case {case}: {at} of {value}");
        }
        let any: Vec<u64> = fluid.price.iter().map(|_| rng.below(100)).collect();
        assert!(master.bound(&any, &floor(&any)) as f64 >= value * (1.0 - 1e-9), "case {case}");
    }
}
