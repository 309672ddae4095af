use std::sync::Barrier;

use super::*;

fn unprepared() -> (Map<String>, &'static AtomicBool) {
    let is_prepared: &'static AtomicBool = Box::leak(Box::default());
    (Map::new(10, is_prepared), is_prepared)
}

fn key(name: &str) -> SecretKey {
    name.parse().unwrap()
}

fn read(map: &Map<String>, key: &str) -> Option<String> {
    map.with(key, |value| value.cloned())
}

fn is_lock_free(map: &Map<String>) -> bool {
    map.lock_free.get().is_some()
}

#[test]
fn values_are_the_same_before_and_after_the_preparation() {
    let (map, is_prepared) = unprepared();
    map.insert(key("replaced"), "old".into());
    map.insert(key("replaced"), "new".into());
    map.insert(key("kept"), "kept".into());
    map.insert(key("removed"), "removed".into());
    map.remove(&key("removed"));
    for is_moved in [false, true] {
        is_prepared.store(is_moved, Ordering::Release);
        assert_eq!(read(&map, "replaced").as_deref(), Some("new"));
        assert_eq!(read(&map, "kept").as_deref(), Some("kept"));
        assert_eq!(read(&map, "removed"), None);
        assert_eq!(map.len(), 2);
        assert_eq!(is_lock_free(&map), is_moved);
    }
    map.remove(&key("kept"));
    map.flush();
    assert_eq!(map.len(), 1);
}

#[test]
fn removed_and_replaced_values_are_dropped_at_once_before_the_preparation() {
    let is_prepared: &'static AtomicBool = Box::leak(Box::default());
    let map = Map::new(10, is_prepared);
    let values: [Arc<()>; 2] = Default::default();
    map.insert(key("a"), values[0].clone());
    map.insert(key("a"), values[1].clone());
    assert_eq!(values.each_ref().map(Arc::strong_count), [1, 2]);
    map.remove(&key("a"));
    assert_eq!(values.each_ref().map(Arc::strong_count), [1, 1]);
}

#[test]
fn reader_can_use_the_map_and_delays_the_move_of_its_value() {
    let (map, is_prepared) = unprepared();
    map.insert(key("a"), "first".into());
    map.with("a", |value| {
        is_prepared.store(true, Ordering::Release);
        map.insert(key("a"), "second".into());
        map.insert(key("b"), "other".into());
        assert_eq!(value.map(String::as_str), Some("first"));
        map.with("b", |_| {
            map.len();
            assert!(
                is_lock_free(&map),
                "the first value is not in the map any more"
            );
        });
    });
    let (map, is_prepared) = unprepared();
    map.insert(key("a"), "first".into());
    map.with("a", |_| {
        is_prepared.store(true, Ordering::Release);
        assert_eq!(read(&map, "a").as_deref(), Some("first"));
        assert!(!is_lock_free(&map));
    });
    assert_eq!(read(&map, "a").as_deref(), Some("first"));
    assert!(is_lock_free(&map));
}

#[test]
fn nothing_is_lost_if_threads_write_during_the_move() {
    const THREADS: usize = 4;
    const KEYS: usize = 50;
    for _ in 0..100 {
        let (map, is_prepared) = unprepared();
        let start = Barrier::new(THREADS + 1);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (map, start) = (&map, &start);
                scope.spawn(move || {
                    start.wait();
                    for number in 0..KEYS {
                        let name = format!("{thread}-{number}");
                        map.insert(key(&name), name.clone());
                        assert_eq!(read(map, &name), Some(name));
                    }
                });
            }
            start.wait();
            is_prepared.store(true, Ordering::Release);
        });
        assert_eq!(map.len(), THREADS * KEYS);
        assert!(is_lock_free(&map));
    }
}

#[test]
fn process_is_prepared_soon_after_its_first_map() {
    let map: Map<String> = Map::with_capacity(1);
    while !IS_PREPARED.load(Ordering::Acquire) {
        thread::yield_now();
    }
    map.insert(key("a"), "value".into());
    assert!(is_lock_free(&map));
}
