//! No space left in the manager's temporary folder, where traces go that do not fit into memory.

use std::path::Path;

use flotilla::sandbox::{JobStatus, SandboxJob};

use crate::harness::local::LocalRig;
use crate::harness::{finish, run};

/// A small file system, which goes with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        run("mount", &["-t", "tmpfs", "-o", "size=256k", "none", &display(folder.path())]);
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &["--lazy", &display(self.0.path())]);
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_temporary_folder_costs_a_trace_its_end_and_no_job_its_result() {
    let disk = SmallDisk::mount();
    let environment = vec![("TMPDIR".to_owned(), display(disk.0.path()))];
    let rig = LocalRig::start_with(environment, None, "", "").await;
    for (end, status) in [("exit 0", JobStatus::Success), ("exit 3", JobStatus::Failed)] {
        let print = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo \"line $i of many that fill the disk\"; done";
        let (report, trace) = finish(&rig.enqueue(SandboxJob::new("long", &[print, end]))).await;
        assert_eq!(report.status, status, "{}", trace.lines().next_back().unwrap_or_default());
        // Nothing is missing before the note that says why the rest is.
        let numbers =
            trace.lines().filter_map(|line| line.split("line ").nth(1)?.split(' ').next()?.parse::<u32>().ok());
        let numbers: Vec<u32> = numbers.collect();
        assert!(numbers.len() > 1_000 && numbers.len() < 20_000, "{} lines", numbers.len());
        assert!(numbers.iter().copied().eq(1..=numbers.last().copied().unwrap_or_default()), "a gap");
        assert!(trace.contains("The log of this job could not be stored: No space left on device"));
        let (report, trace) = finish(&rig.enqueue(SandboxJob::new("short", &["echo short"]))).await;
        assert_eq!(report.status, JobStatus::Success, "{trace}");
    }
}
