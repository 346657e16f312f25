//! The counting allocator counts what it should.

use std::hint::black_box;
use std::sync::Barrier;

use crate::counting::{Count, by_the_process, by_this_thread};

#[test]
fn blocks_and_bytes_are_counted_and_their_return_is_not() {
    let (mut list, count) = by_this_thread(|| black_box(Vec::<u8>::with_capacity(100)));
    assert_eq!(count, Count { blocks: 1, bytes: 100 });
    let ((), count) = by_this_thread(|| list.reserve_exact(black_box(1000)));
    assert_eq!(count, Count { blocks: 1, bytes: 1000 });
    let (_, count) = by_this_thread(|| black_box(vec![0u64; black_box(10)]));
    assert_eq!(count, Count { blocks: 1, bytes: 80 });
    let ((), count) = by_this_thread(|| drop(black_box(list)));
    assert_eq!(count, Count::default());
}

#[test]
fn another_thread_counts_for_the_process_alone() {
    let (begin, end) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            begin.wait();
            black_box(vec![1u8; black_box(1 << 20)]);
            end.wait();
        });
        let wait = || {
            begin.wait();
            end.wait();
        };
        let (((), here), everywhere) = by_the_process(|| by_this_thread(wait));
        assert_eq!(here, Count::default());
        assert!(everywhere.blocks >= 1 && everywhere.bytes >= 1 << 20, "{everywhere:?}");
    });
}
