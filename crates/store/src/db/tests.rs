use super::*;

const NAMES: Table<(String, String), u64> = Table::new("names");

fn key(a: &str, b: &str) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

fn put(db: &Db, k: &(String, String), v: u64) {
    db.change(|tx| {
        tx.put(&NAMES, k, &v);
        Ok::<_, Error>(())
    })
    .unwrap();
}

#[test]
fn reads_see_memory_over_file() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("m.redb")).unwrap();
    for i in 0..10 {
        put(&db, &key("a", &format!("{i}")), i);
    }
    db.sync().unwrap();
    db.change(|tx| {
        tx.delete(&NAMES, &key("a", "3"));
        tx.put(&NAMES, &key("a", "35"), &35);
        tx.put(&NAMES, &key("a", "4"), &44);
        tx.put(&NAMES, &key("b", "0"), &100);
        assert_eq!(tx.get(&NAMES, &key("a", "3"))?, None);
        assert_eq!(tx.get(&NAMES, &key("a", "5"))?, Some(5));
        assert_eq!(tx.prefix(&NAMES, &"b")?, [(key("b", "0"), 100)]);
        Ok::<_, Error>(())
    })
    .unwrap();
    let check = || {
        let all: Vec<u64> = db.prefix(&NAMES, &"a").unwrap().into_iter().map(|(_, v)| v).collect();
        assert_eq!(all, [0, 1, 2, 35, 44, 5, 6, 7, 8, 9]);
        let page = db.page(&NAMES, &"a", Some(&key("a", "2")), 2).unwrap();
        assert_eq!(page.iter().map(|(_, v)| *v).collect::<Vec<_>>(), [35, 44]);
        assert_eq!(db.prefix(&NAMES, &()).unwrap().len(), 11);
        assert_eq!(db.get(&NAMES, &key("a", "3")).unwrap(), None);
    };
    check();
    db.sync().unwrap();
    check();
}

#[test]
fn a_failed_change_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("m.redb")).unwrap();
    let result: Result<(), Error> = db.change(|tx| {
        tx.put(&NAMES, &key("a", "b"), &1);
        Err(Error::Closed)
    });
    assert!(matches!(result, Err(Error::Closed)));
    assert_eq!(db.get(&NAMES, &key("a", "b")).unwrap(), None);
}

#[test]
fn a_dropped_store_is_whole_when_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.redb");
    let db = Db::open(&path).unwrap();
    put(&db, &key("x", "y"), 7);
    drop(db);
    let db = Db::open(&path).unwrap();
    assert_eq!(db.get(&NAMES, &key("x", "y")).unwrap(), Some(7));
}

#[test]
fn changes_from_many_threads_are_grouped() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("m.redb")).unwrap();
    std::thread::scope(|scope| {
        for t in 0..4u64 {
            let db = db.clone();
            scope.spawn(move || {
                for i in 0..500u64 {
                    db.change(|tx| {
                        let n = tx.get(&NAMES, &key("n", ""))?.unwrap_or(0);
                        tx.put(&NAMES, &key("n", ""), &(n + 1));
                        tx.put(&NAMES, &key(&t.to_string(), &i.to_string()), &i);
                        Ok::<_, Error>(())
                    })
                    .unwrap();
                    if i % 100 == 0 {
                        db.sync().unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(db.get(&NAMES, &key("n", "")).unwrap(), Some(2000));
    assert!(db.owner.shared.state.lock().unwrap().rounds < 100);
}

#[test]
fn a_change_costs_microseconds() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("m.redb")).unwrap();
    let mut best = Duration::MAX;
    for round in 0..20 {
        let start = Instant::now();
        for i in 0..100 {
            put(&db, &key(&round.to_string(), &i.to_string()), i);
        }
        best = best.min(start.elapsed() / 100);
    }
    assert!(best < Duration::from_micros(500), "{best:?} a change");
}

#[test]
fn hurried_changes_do_not_wait_for_more() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("m.redb")).unwrap();
    db.hurry();
    assert!(!lock(&db.owner.shared.state).sync_wanted, "there is nothing to write");
    put(&db, &key("a", "b"), 1);
    db.hurry();
    let state = lock(&db.owner.shared.state);
    assert!(state.sync_wanted || state.active.is_empty(), "the writer has it, or is told to take it at once");
}
