//! A manager that is killed: the next one keeps the pool, ends the jobs that were left, and tells GitLab.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use flotilla::ids::{InstanceId, JobId};
use flotilla::journal::Journal;
use flotilla::sandbox::{JobHandle, JobReport, JobStatus, RUNNER_TOKEN, SandboxJob};
use flotilla::taskscaler::core::records::InstanceRecord;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::harness::local::{LocalRig, instances, runner};
use crate::harness::process::{Manager, flotilla};
use crate::harness::rig::{Rig, Setup};
use crate::harness::{LIMIT, eventually, finish, for_each_executor, processes_with, sandbox, shows, text, within};

/// Kills of one run, unless `FLOTILLA_KILLS` says otherwise.
const KILLS: u32 = 20;
/// What the token of a runner became.
const ROTATED_TOKEN: &str = "glrt-rotated-runner0000";
/// `max_instances` of the rig.
const MAX_INSTANCES: usize = 4;

const IDLE: &str = "
    capacity_per_instance = 2
    [[runners.autoscaler.policy]]
      idle_count = 2
      idle_time = \"1h\"";

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_killed_manager_is_ended_and_told_and_its_instance_used_again() {
    for_each_executor(|executor| async move {
        let mut rig = Rig::boot(Setup::of(executor)).await;
        let job = rig.enqueue(SandboxJob::new("left", &["echo started", "sleep 600"]));
        shows(&job, " started\n").await;
        rig.manager.kill();
        rig.manager.start_again();
        let (report, trace) = finish(&job).await;
        assert_eq!((report.status, report.failure_reason.as_str()), (JobStatus::Failed, "runner_system_failure"));
        assert!(trace.ends_with("the runner manager stopped in the middle of this job\x1b[0;m\n"), "{trace}");
        rig.leaves_nothing();
        let (report, trace) = rig.run(SandboxJob::new("next", &["echo next"])).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
        rig.leaves_nothing();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_state_that_gitlab_could_not_be_told_is_told_by_the_next_manager() {
    let mut rig = LocalRig::start("", "").await;
    let job = rig.enqueue(SandboxJob::new("left", &["echo started", "sleep 600"]));
    shows(&job, " started\n").await;
    rig.sandbox.faults().refuse_connections();
    rig.manager.signal("TERM");
    rig.manager.wait_exit(LIMIT);
    rig.manager.start_again();
    rig.manager.wait_log("instance group found");
    rig.sandbox.faults().take_connections();
    let (report, trace) = finish(&job).await;
    assert_eq!((report.status, report.failure_reason.as_str()), (JobStatus::Failed, "runner_interrupted"), "{trace}");
    assert!(trace.ends_with("what the log lacks here is lost\x1b[0;m\n"), "{trace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_state_storage_what_was_there_before_is_removed_for_safety_and_made_anew() {
    let stateless = format!("{IDLE}\n[runners.autoscaler.state_storage]\nenabled = false");
    let mut rig = LocalRig::start("", &stateless).await;
    let ready = |log: &str| log.matches("instance is ready").count();
    eventually("an instance for two jobs is ready", || ready(&rig.manager.log()) >= 1);
    let before = rig.instances();
    rig.manager.kill();
    assert!(!journal(rig.manager.folder()).exists(), "nothing is kept");
    let start = rig.manager.log().len();
    rig.manager.start_again();
    eventually("another instance is ready", || rig.manager.log().get(start..).is_some_and(|log| ready(log) >= 1));
    eventually("those of before are gone", || {
        let now = rig.instances();
        !now.is_empty() && before.iter().all(|instance| !now.contains(instance))
    });
    let log = rig.manager.log();
    for (name, _) in &before {
        let is_said = |line: &&str| line.contains("instance marked for removal") && line.contains(name.as_str());
        let line = log.lines().find(is_said).unwrap_or_else(|| panic!("{name} is not marked\n{log}"));
        assert!(line.contains("no data on pre-existing instance so removing for safety"), "{line}");
    }
    let (report, trace) = finish(&rig.enqueue(SandboxJob::new("next", &["echo next"]))).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    assert!(before.iter().all(|(name, _)| !trace.contains(name.as_str())), "{trace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_rotated_while_no_manager_ran_keeps_the_fleet() {
    let sandbox = sandbox().await;
    sandbox.add_runner(ROTATED_TOKEN);
    let config = |token| format!("check_interval = 1\n{}", runner(&sandbox, "one", token, "id = 7", IDLE));
    let mut manager = Manager::start(&config(RUNNER_TOKEN));
    manager.wait_log("instance is ready");
    let before = instances(&manager);
    manager.kill();
    manager.write_config(&config(ROTATED_TOKEN));
    manager.start_again();
    let (report, trace) =
        finish(&sandbox.enqueue(SandboxJob::new("next", &["echo next"]).for_runner(ROTATED_TOKEN))).await;
    assert_eq!(report.status, JobStatus::Success, "{trace}");
    assert!(before.iter().any(|(name, _)| trace.contains(&format!("Instance {name} connected"))), "{trace}");
    let after = instances(&manager);
    assert!(before.iter().all(|instance| after.contains(instance)), "{before:?} became {after:?}");
    assert!(!manager.log().contains("instance marked for removal"), "{}", manager.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_manager_on_the_same_state_stops_and_says_who_has_it() {
    let rig = LocalRig::start("", "").await;
    rig.manager.wait_log("instance group found");
    let (code, said) = flotilla(&["run", "--config", &rig.manager.config_path().to_string_lossy()]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another flotilla uses ") && said.contains("(process "), "{said}");
    let job = rig.enqueue(SandboxJob::new("first", &["echo one"]));
    assert_eq!(finish(&job).await.0.status, JobStatus::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_stops_the_start_and_names_the_file() {
    let mut rig = LocalRig::start("", "").await;
    rig.manager.wait_log("instance group found");
    rig.manager.kill();
    let path = journal(rig.manager.folder());
    let whole = fs::read(&path).expect("the journal");
    fs::write(&path, b"").expect("the journal");
    let (code, said) = flotilla(&["run", "--config", &rig.manager.config_path().to_string_lossy()]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&path.display().to_string()) && said.contains("put a copy back"), "{said}");
    fs::write(&path, whole).expect("the journal");
    rig.manager.start_again();
    let job = rig.enqueue(SandboxJob::new("next", &["echo next"]));
    assert_eq!(finish(&job).await.0.status, JobStatus::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_folder_has_no_secret_in_clear() {
    let rig = LocalRig::start("", "").await;
    let job = rig.enqueue(SandboxJob::new("secret", &["echo started", "sleep 600"]).masked("KEY", "hidden-from-all"));
    shows(&job, " started\n").await;
    let tokens: Vec<String> =
        rig.sandbox.requests().iter().filter_map(|asked| asked.header("job-token")).map(str::to_owned).collect();
    assert!(!tokens.is_empty());
    for secret in tokens.iter().map(String::as_str).chain([RUNNER_TOKEN, "hidden-from-all"]) {
        for file in ["journal.redb", "journal.key", "journal.lock"] {
            let bytes = fs::read(rig.manager.folder().join(".flotilla").join(file)).expect("a file of the journal");
            assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "a secret in {file}");
        }
    }
}

/// The kill loop: `FLOTILLA_KILLS=200 cargo test --test it restart::killed -- --nocapture`.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_under_load_nothing_leaks_and_no_job_is_lost() {
    let kills = number("FLOTILLA_KILLS").unwrap_or(KILLS);
    let seed = number("FLOTILLA_SEED").unwrap_or_else(rand::random);
    println!("{kills} kills, FLOTILLA_SEED={seed}");
    let began = flotilla::time::now().instant;
    let mut load = Load::start(u64::from(seed)).await;
    for round in 0..kills {
        load.round(round).await;
    }
    load.come_to_rest().await;
    println!("{}; {} s", load.summary(kills), began.elapsed().as_secs());
}

#[expect(clippy::disallowed_methods, reason = "how long to run is the caller's choice")]
fn number(name: &str) -> Option<u32> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// A rig under load, and what has been seen of it.
struct Load {
    rig: LocalRig,
    /// Tells this run from others on the machine.
    own: u16,
    random: SmallRng,
    jobs: Vec<JobHandle>,
    /// Jobs that were running when their manager was killed, and those of them that were told failed for it.
    caught: BTreeSet<JobId>,
    failed: Cell<usize>,
    reused: usize,
    /// The most instances that were seen at once.
    peak: Cell<usize>,
    /// How often instances were counted.
    looks: Cell<usize>,
}

impl Load {
    async fn start(seed: u64) -> Self {
        let rig = LocalRig::start("", IDLE).await;
        // A job that a killed manager had not begun comes back soon.
        rig.sandbox.change_options(|options| options.offer_ttl = Duration::from_secs(5));
        Self {
            rig,
            own: rand::random(),
            random: SmallRng::seed_from_u64(seed),
            jobs: Vec::new(),
            caught: BTreeSet::new(),
            failed: Cell::new(0),
            reused: 0,
            peak: Cell::new(0),
            looks: Cell::new(0),
        }
    }

    /// Adds jobs, kills the manager at some moment, and looks at what the next one makes of it.
    async fn round(&mut self, round: u32) {
        for number in 0..3 {
            let job = SandboxJob::new(&format!("short-{round}-{number}"), &["echo started", "sleep 0.3", "echo ended"]);
            self.jobs.push(self.rig.enqueue(job));
        }
        for number in 0..2 {
            let (name, sleep) = (format!("long-{round}-{number}"), format!("sleep {}", self.word(round, number)));
            self.jobs.push(self.rig.enqueue(SandboxJob::new(&name, &["echo started", &sleep])));
        }
        let until = Duration::from_millis(self.random.random_range(0..2_500));
        within(until, || {
            self.watch();
            false
        });
        self.rig.manager.kill();
        // What was on its way is taken in by GitLab in this time.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let before: BTreeMap<String, u32> = self.alive().into_iter().collect();
        let caught: Vec<JobHandle> =
            self.jobs.iter().filter(|job| status(job) == JobStatus::Running).cloned().collect();
        self.rig.manager.start_again();
        for job in &caught {
            self.told(job, round).await;
        }
        self.caught.extend(caught.iter().map(JobHandle::id));
        let after: BTreeMap<String, u32> = self.alive().into_iter().collect();
        for (name, pid) in &before {
            assert_eq!(after.get(name), Some(pid), "round {round}: an instance of the pool is gone\n{}", self.log());
        }
        self.reused += before.len();
        self.watch();
    }

    /// How long a job sleeps: its own word in the machine's table of processes.
    fn word(&self, round: u32, number: u32) -> String {
        format!("30.{:05}{round:05}{number}", self.own)
    }

    /// The end of a job that was caught is told, and nothing of it runs any more.
    async fn told(&self, job: &JobHandle, round: u32) {
        let ended = job.wait_until(LIMIT, |report, _| {
            self.watch();
            report.status.is_final()
        });
        ended.await.unwrap_or_else(|error| panic!("round {round}: {error}\n{}\n{}", text(&job.trace()), self.log()));
        let report = job.report().expect("a job");
        match (report.status, report.failure_reason.as_str()) {
            (JobStatus::Failed, "runner_system_failure") => self.failed.set(self.failed.get() + 1),
            // Its script had ended, and that was written down.
            (JobStatus::Success, "") if report.name.starts_with("short-") => {}
            how => panic!("round {round}, {}: {how:?}\n{}\n{}", report.name, text(&job.trace()), self.log()),
        }
        if let Some(number) = report.name.strip_prefix("long-") {
            let (round, number) = number.split_once('-').expect("two numbers");
            let word = self.word(round.parse().expect("a round"), number.parse().expect("a number"));
            assert_eq!(processes_with(&word), Vec::<u32>::new(), "{} still runs", report.name);
        }
    }

    /// What must hold at every moment.
    fn watch(&self) {
        let counted = self.folders();
        self.peak.set(self.peak.get().max(counted));
        self.looks.set(self.looks.get() + 1);
        assert!(counted <= MAX_INSTANCES, "{counted} instances\n{}", self.log());
    }

    /// Lets all jobs end, and compares the provider's list with the journal.
    async fn come_to_rest(&mut self) {
        for job in &self.jobs {
            let ended = job.wait_final(LIMIT).await;
            let report = ended.unwrap_or_else(|error| panic!("{error}\n{}\n{}", text(&job.trace()), self.log()));
            allowed(&report);
            let was_caught = self.caught.contains(&job.id());
            let how = (report.status, &report.failure_reason);
            assert!(was_caught || report.status == JobStatus::Success, "{}: {how:?}\n{}", report.name, self.log());
        }
        assert!(!self.log().contains("instance unexpectedly removed"), "{}", self.log());
        // What the manager writes without waiting is written in a moment.
        let is_at_rest = |load: &Self| {
            let log = load.log();
            log.matches("Added job to processing list").count() >= load.jobs.len()
        };
        eventually("all jobs have been taken", || is_at_rest(self));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let listed: Vec<String> = self.alive().into_iter().map(|(name, _)| name).collect();
        self.rig.manager.kill();
        let (kept, jobs) = kept(self.rig.manager.folder());
        let names: Vec<String> = kept.iter().map(|record| record.id.as_str().to_owned()).collect();
        assert_eq!(names, listed, "the journal and the provider's list\n{}", self.log());
        assert!(kept.iter().all(|record| record.slots.is_empty()), "{kept:?}");
        assert_eq!(jobs, 0, "records of jobs\n{}", self.log());
        self.rig.manager.start_again();
        let job = self.rig.enqueue(SandboxJob::new("last", &["echo last"]));
        assert_eq!(finish(&job).await.0.status, JobStatus::Success);
        self.rig.manager.signal("TERM");
        self.rig.manager.wait_exit(LIMIT);
        assert_eq!(self.rig.instances(), Vec::new(), "delete_instances_on_shutdown\n{}", self.log());
    }

    fn summary(&self, kills: u32) -> String {
        let succeeded = self.jobs.iter().filter(|job| status(job) == JobStatus::Success).count();
        let Self { jobs, caught, failed, reused, peak, looks, .. } = self;
        format!(
            "{kills} kills, {} jobs: {succeeded} succeeded, {} were running at a kill, {} of them told failed for \
             it; instances of a killed manager used again: {reused}; in {} looks at most {} instances of {MAX_INSTANCES}",
            jobs.len(),
            caught.len(),
            failed.get(),
            looks.get(),
            peak.get()
        )
    }

    /// Instances whose process lives, by name.
    fn alive(&self) -> Vec<(String, u32)> {
        self.rig.instances().into_iter().filter(|(_, pid)| Path::new(&format!("/proc/{pid}")).exists()).collect()
    }

    /// All that the provider counts: instances that live, and folders of those that are still to begin.
    fn folders(&self) -> usize {
        let root = self.rig.manager.folder().join(".flotilla/local");
        let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        entries(&root)
            .flat_map(|runner| entries(&runner).collect::<Vec<_>>())
            .filter(|path| path.join("home").exists())
            .count()
    }

    fn log(&self) -> String {
        self.rig.manager.log()
    }
}

/// The one thing that a killed manager may have done and not known: GitLab took the final state, and nobody heard.
fn allowed(report: &JobReport) {
    let told_twice = |violation: &String| violation == "update after the final update was taken";
    let others: Vec<&String> = report.violations.iter().filter(|violation| !told_twice(violation)).collect();
    assert_eq!(others, Vec::<&String>::new(), "{}", report.name);
}

fn status(job: &JobHandle) -> JobStatus {
    job.report().expect("a job").status
}

fn journal(folder: &Path) -> std::path::PathBuf {
    folder.join(".flotilla/journal.redb")
}

/// The instances of the journal that are not gone, and how many records of jobs it has.
fn kept(folder: &Path) -> (Vec<InstanceRecord>, usize) {
    tokio::task::block_in_place(|| {
        let journal = Journal::open(&journal(folder)).expect("the journal");
        let sections = journal.sections().expect("its sections");
        let fleet = sections.keys().find(|name| name.starts_with("fleet/")).expect("a fleet");
        let jobs = sections.iter().filter(|(name, _)| name.starts_with("jobs/")).map(|(_, records)| records).sum();
        let mut instances: Vec<InstanceRecord> = journal.section(fleet).load("instance").expect("instances");
        instances.retain(|record| record.gone_at.is_none());
        instances.sort_by(|a, b| InstanceId::cmp(&a.id, &b.id));
        (instances, jobs)
    })
}
