use std::time::Instant;
use tandem_planner::{
    bound,
    mincut::{MinCut, Objective, additive},
    search, segments, testing, timeline,
};
fn main() {
    for n in [100usize, 1000, 10_000, 100_000] {
        let p = testing::random_dag(n, 7);
        let mut cut = MinCut::default();
        for launch in [false, true] {
            let o = Objective { launch, ..Objective::unit(&p) };
            let mut best = f64::MAX;
            let mut d = vec![];
            for _ in 0..(if n > 10_000 { 3 } else { 10 }) {
                let t = Instant::now();
                let r = cut.two(&p, &o, 1).unwrap();
                best = best.min(t.elapsed().as_secs_f64());
                d = r.0;
            }
            let t = Instant::now();
            let s = segments::absorbed(&p, &d);
            let ta = t.elapsed();
            println!(
                "{n} launch {launch}: cut {:.3} ms, far {} of {}, absorbed {} segs in {:?}, additive {:?}",
                best * 1e3,
                d.iter().filter(|x| **x == 1).count(),
                n,
                s.len(),
                ta,
                additive(&p, &o, &d)
            );
            let t = Instant::now();
            let l = segments::limited(&p, s, 32);
            println!("   limited {:?} in {:?}", l.as_ref().map(|l| l.len()), t.elapsed());
            if let Some(l) = l {
                let t = Instant::now();
                let sc = timeline::score(&p, &l).unwrap();
                println!("   score {:?} {:?}", t.elapsed(), sc);
            }
        }
        if n <= 10_000 {
            let t = Instant::now();
            let b = bound::makespan(&p);
            println!("   bound {:?} {:?}", b, t.elapsed());
            let t = Instant::now();
            let c = search::cuts(&p, tandem_ir::plan::Objective::Latency);
            println!("   cuts {} {:?}", c.len(), t.elapsed());
        }
    }
}
