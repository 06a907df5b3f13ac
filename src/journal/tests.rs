//! The journal on real files: what it keeps, what it refuses, and what is wrong with a file.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{Database, StorageBackend, TableDefinition};
use serde::{Deserialize, Serialize};

use super::*;
use crate::error_chain::Chain;

const SECRET: &str = "glcbt-64_a-token-that-nobody-may-read";
/// Enough of it to be a leak.
const PART: &str = "a-token-that";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Thing {
    name: String,
    uses: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Sealed {
    token: String,
    note: Option<String>,
}

/// A state folder that goes with the test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join(FILE)
    }

    fn open(&self) -> Result<Journal, JournalError> {
        Journal::open(&self.file())
    }

    /// The section of most tests, in a journal that is open for as long as it.
    fn section(&self) -> Section {
        self.open().unwrap().section("s")
    }

    fn message(&self) -> String {
        Chain(&self.open().unwrap_err()).to_string()
    }

    /// Changes the file as another program would.
    fn meddle(&self, record: (&str, &str, &str), text: &str) {
        let database = Database::open(self.file()).unwrap();
        let transaction = database.begin_write().unwrap();
        let records = TableDefinition::<(&str, &str, &str), &[u8]>::new("records");
        transaction.open_table(records).unwrap().insert(record, text.as_bytes()).unwrap();
        transaction.commit().unwrap();
    }
}

fn put(name: &str, uses: u32) -> Change {
    Change::put("thing", name, &Thing { name: name.to_owned(), uses }).unwrap()
}

fn things(section: &Section) -> Vec<(String, u32)> {
    section.load::<Thing>("thing").unwrap().into_iter().map(|thing| (thing.name, thing.uses)).collect()
}

#[test]
fn what_was_committed_is_there_after_a_reopening() {
    let folder = Folder::new();
    let section = folder.section();
    section.commit(&[put("a", 1), put("b", 1)]).unwrap();
    section.commit(&[put("a", 2), Change::remove("thing", "b"), Change::remove("thing", "c")]).unwrap();
    drop(section);
    assert_eq!(things(&folder.section()), [("a".to_owned(), 2)]);
}

#[test]
fn sections_and_kinds_do_not_see_each_other() {
    let folder = Folder::new();
    let journal = folder.open().unwrap();
    journal.section("s").commit(&[put("a", 1)]).unwrap();
    journal.section("s/").commit(&[put("a", 2), put("b", 3)]).unwrap();
    assert_eq!(things(&journal.section("s")), [("a".to_owned(), 1)]);
    assert_eq!(things(&journal.section("")), []);
    assert_eq!(journal.section("s").load::<Thing>("thin").unwrap(), []);
    assert_eq!(journal.sections().unwrap(), BTreeMap::from([("s".to_owned(), 1), ("s/".to_owned(), 2)]));
}

#[test]
fn changes_that_nobody_waits_for_are_written_at_the_latest_when_the_journal_is_closed() {
    let folder = Folder::new();
    let section = folder.section();
    section.write_soon(put("a", 1));
    section.write_soon(put("a", 2));
    section.write_soon(put("b", 1));
    section.write_soon(Change::remove("thing", "b"));
    drop(section);
    assert_eq!(things(&folder.section()), [("a".to_owned(), 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_meet_are_all_written() {
    let folder = Folder::new();
    let section = folder.section();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..200 {
        let section = section.clone();
        tasks.spawn(async move { section.write(vec![put(&format!("{number:03}"), number)]).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    let found = tokio::task::spawn_blocking(move || things(&section)).await.unwrap();
    let expected: Vec<_> = (0..200).map(|number| (format!("{number:03}"), number)).collect();
    assert_eq!(found, expected);
}

/// A disk that is full from a certain moment on.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    is_full: Arc<AtomicBool>,
}

impl Disk {
    fn room(&self) -> io::Result<()> {
        if self.is_full.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.room().and_then(|()| self.file.set_len(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.room().and_then(|()| self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room().and_then(|()| self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

#[test]
fn a_full_disk_is_an_error_and_once_there_is_room_the_next_try_succeeds() {
    let folder = Folder::new();
    drop(folder.section());
    let file = fs::File::options().read(true).write(true).open(folder.file()).unwrap();
    let is_full = Arc::<AtomicBool>::default();
    let disk = Disk { file: FileBackend::new(file).unwrap(), is_full: is_full.clone() };
    let database = redb::Builder::new().create_with_backend(disk).unwrap();
    let writer = Writer::start(Ledger::over(&folder.file(), database), Pulses::default().of("a journal")).unwrap();
    let section: Arc<str> = "s".into();
    let keys = || -> Vec<String> { writer.load(&section, "thing").unwrap().into_iter().map(|(key, _)| key).collect() };
    writer.commit_blocking(&section, vec![put("a", 1)]).unwrap();

    is_full.store(true, Ordering::SeqCst);
    let error = writer.commit_blocking(&section, vec![put("a", 2), put("b", 1)]).unwrap_err();
    assert!(Chain(&error).to_string().contains("no storage space"), "{}", Chain(&error));
    is_full.store(false, Ordering::SeqCst);
    assert_eq!(keys(), ["a"], "all or none");
    writer.commit_blocking(&section, vec![put("a", 2), put("b", 1)]).unwrap();
    assert_eq!(keys(), ["a", "b"]);
}

#[test]
fn fields_and_records_of_a_later_version_are_kept() {
    let folder = Folder::new();
    folder.section().commit(&[put("a", 1)]).unwrap();
    folder.meddle(("s", "thing", "a"), r#"{"name":"a","uses":1,"colour":"red","nested":{"a":[1]}}"#);
    folder.meddle(("s", "wish", "w"), r#"{"more":true}"#);
    let section = folder.section();
    section.commit(&[put("a", 2)]).unwrap();
    let [record] = &section.load::<serde_json::Value>("thing").unwrap()[..] else { panic!("one record") };
    assert_eq!(*record, serde_json::json!({"name": "a", "uses": 2, "colour": "red", "nested": {"a": [1]}}));
    assert_eq!(section.load::<serde_json::Value>("wish").unwrap(), [serde_json::json!({"more": true})]);
}

#[test]
fn a_record_that_is_none_of_its_kind_is_named_with_its_file() {
    let folder = Folder::new();
    drop(folder.section());
    folder.meddle(("s", "thing", "a"), r#"{"name":"a","uses":"many"}"#);
    let error = folder.section().load::<Thing>("thing").unwrap_err();
    let text = Chain(&error).to_string();
    assert!(text.contains("journal.redb") && text.contains("the record \"a\" of thing is not understood"), "{text}");
    folder.meddle(("s", "job", "k"), "not json");
    let text = folder.message();
    assert!(text.contains("the record \"k\" of job is not understood"), "{text}");
}

#[test]
fn a_file_from_the_future_is_refused_with_what_to_do() {
    let folder = Folder::new();
    drop(folder.section());
    let database = Database::open(folder.file()).unwrap();
    let transaction = database.begin_write().unwrap();
    let about = TableDefinition::<&str, &[u8]>::new("about");
    transaction.open_table(about).unwrap().insert("format", &b"2"[..]).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let text = folder.message();
    assert!(text.contains("has format 2, and this flotilla reads up to 1; run the version that wrote it"), "{text}");
}

#[test]
fn a_torn_or_foreign_file_is_never_taken_for_an_empty_one() {
    let folder = Folder::new();
    let changes: Vec<Change> = (0..500).map(|number| put(&format!("{number:03}"), number)).collect();
    folder.section().commit(&changes).unwrap();
    let path = folder.file();
    let whole = fs::read(&path).unwrap();
    let mut refused = 0;
    let mut damaged = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        // A child that another test is just starting holds the lock of the opening before until it has begun.
        let mut opened = (0..10_000).map(|_| {
            std::thread::yield_now();
            folder.open()
        });
        let free = opened.find(|opened| !matches!(opened, Err(JournalError::InUse { .. })));
        match free.expect("the lock is free soon") {
            // The damage hit nothing that is in use.
            Ok(journal) => assert_eq!(things(&journal.section("s")).len(), 500, "{what}"),
            Err(error @ (JournalError::Damaged { .. } | JournalError::Store { .. })) => {
                refused += 1;
                let text = Chain(&error).to_string();
                assert!(text.contains(&path.display().to_string()), "{what}: {text}");
            }
            Err(error) => panic!("{what}: {}", Chain(&error)),
        }
    };
    damaged(b"", "empty");
    damaged(b"hello", "foreign");
    damaged(&vec![0; whole.len()], "zeroes");
    for part in 1..8 {
        damaged(&whole[..whole.len() * part / 8], &format!("cut to {part}/8"));
    }
    for at in (0..whole.len()).step_by(whole.len() / 64) {
        let mut torn = whole.clone();
        let end = torn.len().min(at + 4096);
        torn[at..end].iter_mut().for_each(|byte| *byte ^= 0xa5);
        damaged(&torn, &format!("a page of noise at {at}"));
    }
    assert!(refused >= 3, "{refused}");
    fs::write(&path, &whole).unwrap();
    assert_eq!(things(&folder.section()).len(), 500);
}

#[test]
fn a_secret_comes_back_and_is_nowhere_in_clear() {
    let folder = Folder::new();
    let section = folder.section();
    let token = section.seal("k", &Secret::new(SECRET)).unwrap();
    section.commit(&[Change::put("job", "k", &Sealed { token, note: None }).unwrap()]).unwrap();
    section.write_soon(Change::amend("job", "k", "note", "noted".to_owned()));
    drop(section);
    for entry in fs::read_dir(folder.0.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        for part in [SECRET, PART] {
            assert!(!bytes.windows(part.len()).any(|bytes| bytes == part.as_bytes()), "{}", path.display());
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    let section = folder.section();
    let [Sealed { token, note }] = &section.load("job").unwrap()[..] else { panic!("one record") };
    assert_eq!(section.unseal("k", token).unwrap(), Secret::new(SECRET));
    assert_eq!(note.as_deref(), Some("noted"));
    assert!(section.unseal("another", token).is_err(), "it opens in its own record only");
    let other = section.journal.section("another");
    assert!(other.unseal("k", token).is_err(), "and in its own section only");
}

#[test]
fn a_note_on_a_record_that_is_gone_makes_none() {
    let folder = Folder::new();
    let section = folder.section();
    section.commit(&[put("a", 1), Change::remove("thing", "a")]).unwrap();
    section.write_soon(Change::amend("thing", "a", "note", "late".to_owned()));
    drop(section);
    assert_eq!(things(&folder.section()), []);
}

#[test]
fn a_lost_or_wrong_key_is_said_at_the_start() {
    let folder = Folder::new();
    drop(folder.section());
    let key = folder.file().with_extension(folder::KEY);
    let right = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    assert!(matches!(folder.open().unwrap_err(), JournalError::KeyMissing { .. }));
    for wrong in [vec![7; 32], vec![7; 5]] {
        fs::write(&key, wrong).unwrap();
        assert!(matches!(folder.open().unwrap_err(), JournalError::KeyWrong { .. }));
    }
    fs::write(&key, right).unwrap();
    folder.open().unwrap();
}

#[test]
fn a_second_manager_is_told_who_has_the_journal() {
    let folder = Folder::new();
    let journals = Journals::new(folder.0.path().to_owned(), Pulses::default());
    let journal = journals.open(None).unwrap();
    assert_eq!(journals.open(Some(folder.0.path())).unwrap().path(), journal.path(), "one journal for one folder");
    let text = folder.message();
    let holder = format!("(process {})", std::process::id());
    assert!(text.starts_with("another flotilla uses ") && text.contains(&holder), "{text}");
    drop((journals, journal));
    folder.open().unwrap();
}

#[test]
fn a_copy_can_be_looked_into_while_a_manager_has_the_journal() {
    let folder = Folder::new();
    let section = folder.section();
    section.commit(&[put("a", 1)]).unwrap();
    let copy = Journal::copy_of(&folder.file()).unwrap();
    let place = copy.path().to_owned();
    assert_eq!(things(&copy.section("s")), [("a".to_owned(), 1)]);
    copy.section("s").commit(&[put("a", 2)]).unwrap();
    assert_eq!(things(&section), [("a".to_owned(), 1)]);
    drop(copy);
    assert!(!place.exists());
}

#[test]
fn the_state_folder_is_closed_to_others() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("deep/.flotilla");
    Journals::new(path.clone(), Pulses::default()).open(None).unwrap();
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
}
