use super::*;

/// A repository with one commit on `main`, as a remote.
struct Remote {
    url: String,
    sha: String,
    work: PathBuf,
}

impl Remote {
    fn new(place: &Place, name: &str) -> Self {
        let work = place.path(&format!("work/{name}"));
        place.git(&work, &["init", "-q", "-b", "main"]);
        let mut remote = Self { url: format!("file://{}", work.display()), sha: String::new(), work };
        remote.commit(place, "README.md", name);
        remote
    }

    fn commit(&mut self, place: &Place, file: &str, content: &str) {
        fs::write(self.work.join(file), content).expect("a file");
        place.git(&self.work, &["add", "-A"]);
        place.git(&self.work, &["commit", "-q", "-m", content]);
        self.sha = place.git(&self.work, &["rev-parse", "HEAD"]);
    }

    fn fields(&self, variables: &[(&str, &str)], depth: u32) -> Value {
        let variables: Vec<Value> = variables.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
        json!({
            "variables": variables,
            "git_info": {
                "repo_url": self.url, "ref": "main", "sha": self.sha, "depth": depth,
                "refspecs": ["+refs/heads/main:refs/remotes/origin/main"],
            },
        })
    }

    fn context(&self, place: &Place, variables: &[(&str, &str)], kind: ShellKind) -> ScriptContext {
        place.context(self.fields(variables, 20), kind)
    }
}

fn without_empty(ran: &Ran) -> Vec<String> {
    ran.lines().into_iter().filter(|line| !line.is_empty()).collect()
}

#[test]
fn a_fresh_place_gets_the_commit_and_says_so_as_the_reference_does() {
    for (shell, kind) in SHELLS {
        let place = Place::new();
        let remote = Remote::new(&place, "p");
        let context = remote.context(&place, &[], kind);
        let ran = place.run_stage(shell, "get_sources", &context);
        let project = place.project(&context);
        assert_eq!(ran.code, 0, "{shell}: {}", ran.text);
        assert_eq!(
            without_empty(&ran),
            [
                "Gitaly correlation ID: 01KCORR",
                "Fetching changes with git depth set to 20...",
                &format!("Initialized empty Git repository in {}/.git/", project.display()),
                "Created fresh repository.",
                &format!("Checking out {} as detached HEAD (ref is main)...", remote.sha.get(..8).expect("a sha")),
                "Skipping Git submodules setup",
            ],
            "{shell}"
        );
        assert_eq!(fs::read_to_string(project.join("README.md")).expect("the file"), "p");
        assert_eq!(place.git(&project, &["rev-parse", "HEAD"]), remote.sha);
    }
}

#[test]
fn a_second_job_fetches_into_the_checkout_and_cleans_it() {
    let place = Place::new();
    let mut remote = Remote::new(&place, "p");
    let first = remote.context(&place, &[], ShellKind::Bash);
    assert_eq!(place.run_stage("bash", "get_sources", &first).code, 0);
    let project = place.project(&first);
    fs::write(project.join("left-over"), "x").expect("a file");
    fs::write(project.join("README.md"), "changed").expect("a file");
    for lock in ["index.lock", "shallow.lock", "HEAD.lock", "config.lock", "refs/heads/x.lock", "hooks/post-checkout"] {
        let lock = project.join(".git").join(lock);
        fs::create_dir_all(lock.parent().expect("a parent")).expect("a directory");
        fs::write(&lock, "#!/bin/sh\nexit 1\n").expect("a lock");
    }
    remote.commit(&place, "second", "2");
    let second = remote.context(&place, &[], ShellKind::Bash);
    let ran = place.run_stage("bash", "get_sources", &second);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(
        ran.lines().contains(&format!("Reinitialized existing Git repository in {}/.git/", project.display())),
        "{}",
        ran.text
    );
    assert_eq!(place.git(&project, &["rev-parse", "HEAD"]), remote.sha);
    assert_eq!(place.git(&project, &["status", "--porcelain"]), "");
    assert!(!project.join("left-over").exists() && project.join("second").exists());
}

#[test]
fn settings_of_the_checkout_survive_where_cleaning_is_off() {
    let place = Place::new();
    let remote = Remote::new(&place, "p");
    let mut context = remote.context(&place, &[], ShellKind::Bash);
    context.runner.clean_git_config = Some(false);
    assert_eq!(place.run_stage("bash", "get_sources", &context).code, 0);
    let project = place.project(&context);
    place.git(&project, &["config", "mine.key", "1"]);
    place.git(&project, &["remote", "set-url", "origin", "file:///nowhere"]);
    let ran = place.run_stage("bash", "get_sources", &context);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(!ran.text.contains("Created fresh repository."), "{}", ran.text);
    assert_eq!(place.git(&project, &["config", "mine.key"]), "1");
    assert_eq!(place.git(&project, &["config", "--get-all", "include.path"]).lines().count(), 1);
    context.runner.clean_git_config = None;
    assert_eq!(place.run_stage("bash", "get_sources", &context).code, 0);
    assert_eq!(place.git(&project, &["config", "--default", "gone", "mine.key"]), "gone");
}

#[test]
fn a_checkout_that_is_not_the_jobs_own_keeps_its_settings_unless_the_runner_says_to_clean_them() {
    let place = Place::new();
    let mut context = place.context(json!({"variables": [{"key": "GIT_STRATEGY", "value": "none"}]}), ShellKind::Bash);
    let project = place.project(&context);
    place.git(&project, &["init", "-q"]);
    for (configured, kept) in [(None, true), (Some(false), true), (Some(true), false)] {
        context.runner.clean_git_config = configured;
        assert_eq!(place.run_stage("bash", "cleanup_file_variables", &context).code, 0);
        assert_eq!(project.join(".git/config").exists(), kept, "{configured:?}");
    }
}

#[test]
fn clone_begins_anew_and_depth_zero_brings_all() {
    let place = Place::new();
    let mut remote = Remote::new(&place, "p");
    remote.commit(&place, "second", "2");
    let shallow = place.context(remote.fields(&[("GIT_STRATEGY", "clone")], 1), ShellKind::Bash);
    assert_eq!(place.run_stage("bash", "get_sources", &shallow).code, 0);
    let project = place.project(&shallow);
    assert_eq!(place.git(&project, &["rev-list", "--count", "HEAD"]), "1");
    let full = place.context(remote.fields(&[], 0), ShellKind::Bash);
    let ran = place.run_stage("bash", "get_sources", &full);
    assert!(ran.lines().contains(&"Fetching changes...".to_owned()), "{}", ran.text);
    assert_eq!(place.git(&project, &["rev-list", "--count", "HEAD"]), "2", "a shallow checkout is completed");
    fs::write(project.join(".git/marker"), "").expect("a marker");
    assert_eq!(place.run_stage("bash", "get_sources", &shallow).code, 0);
    assert!(!project.join(".git/marker").exists());
}

#[test]
fn native_clone_falls_back_where_git_is_too_old() {
    let place = Place::new();
    let remote = Remote::new(&place, "p");
    let variables = [("GIT_STRATEGY", "clone"), ("FF_USE_GIT_NATIVE_CLONE", "true")];
    let context = remote.context(&place, &variables, ShellKind::Bash);
    for version in ["2.47.3", "2.49.0", "2.9.1", "3.0"] {
        let new_enough = matches!(version, "2.49.0" | "3.0");
        // Only the version is made up; what both ways run is git itself, which here is asked for a branch.
        place.install(
            "git",
            &format!(
                "#!/bin/sh\n[ \"$1\" = version ] && echo 'git version {version}' && exit\nexec /usr/bin/git \"$@\"\n"
            ),
        );
        let ran = place.run_stage("bash", "get_sources", &context);
        assert_eq!(ran.code, 0, "{version}: {}", ran.text);
        let native = ran.lines().contains(&"Cloning repository for main with git depth set to 20...".to_owned());
        assert_eq!(native, new_enough, "{version}: {}", ran.text);
        assert_eq!(place.git(&place.project(&context), &["rev-parse", "HEAD"]), remote.sha, "{version}");
    }
}

#[test]
fn without_sources_the_directory_is_made_or_emptied() {
    for (shell, kind) in SHELLS {
        let place = Place::new();
        let none = place.context(json!({"variables": [{"key": "GIT_STRATEGY", "value": "none"}]}), kind);
        let ran = place.run_stage(shell, "get_sources", &none);
        assert_eq!(
            (ran.code, ran.lines()),
            (0, strings(&["Skipping Git repository setup", "Skipping Git checkout", "Skipping Git submodules setup"]))
        );
        fs::write(place.project(&none).join("kept"), "").expect("a file");
        assert_eq!(place.run_stage(shell, "get_sources", &none).code, 0);
        assert!(place.project(&none).join("kept").exists());

        let empty = place.context(json!({"variables": [{"key": "GIT_STRATEGY", "value": "empty"}]}), kind);
        let project = place.project(&empty);
        assert!(project.to_string_lossy().ends_with("/g/p-empty"));
        fs::create_dir_all(project.join("old")).expect("a directory");
        let ran = place.run_stage(shell, "get_sources", &empty);
        assert_eq!(ran.lines()[0], "Skipping Git repository setup and creating an empty build directory");
        assert_eq!(fs::read_dir(&project).expect("the directory").count(), 0);
    }
}

#[test]
fn checkout_and_clean_can_be_left_out() {
    let place = Place::new();
    let remote = Remote::new(&place, "p");
    let context = remote.context(&place, &[("GIT_CHECKOUT", "false")], ShellKind::Bash);
    let ran = place.run_stage("bash", "get_sources", &context);
    assert!(ran.lines().contains(&"Skipping Git checkout".to_owned()), "{}", ran.text);
    assert!(!place.project(&context).join("README.md").exists());

    let context = remote.context(&place, &[("GIT_CLEAN_FLAGS", "-ffdx -e kept/")], ShellKind::Bash);
    fs::create_dir_all(place.project(&context).join("kept")).expect("a directory");
    fs::write(place.project(&context).join("kept/a"), "").expect("a file");
    fs::write(place.project(&context).join("gone"), "").expect("a file");
    assert_eq!(place.run_stage("bash", "get_sources", &context).code, 0);
    assert!(place.project(&context).join("kept/a").exists() && !place.project(&context).join("gone").exists());
}

#[test]
fn a_failing_fetch_fails_the_stage_with_gits_code() {
    for (shell, kind) in SHELLS {
        let place = Place::new();
        let mut remote = Remote::new(&place, "p");
        remote.sha = "0123456789012345678901234567890123456789".to_owned();
        let context = remote.context(&place, &[], kind);
        assert_eq!(place.run_stage(shell, "get_sources", &context).code, 128, "no such commit");
        remote.url.push_str("-nowhere");
        let context = remote.context(&place, &[], kind);
        assert_eq!(place.run_stage(shell, "get_sources", &context).code, 128, "no such repository");
    }
}

#[test]
fn submodules_follow_the_strategy() {
    for (strategy, outer, inner) in [("none", false, false), ("normal", true, false), ("recursive", true, true)] {
        let place = Place::new();
        let deepest = Remote::new(&place, "deepest");
        let middle = Remote::new(&place, "middle");
        place.git(&middle.work, &["submodule", "--quiet", "add", &deepest.url, "inner"]);
        place.git(&middle.work, &["commit", "-q", "-m", "inner"]);
        let mut top = Remote::new(&place, "p");
        place.git(&top.work, &["submodule", "--quiet", "add", &middle.url, "sub"]);
        top.commit(&place, "x", "x");
        let context = top.context(&place, &[("GIT_SUBMODULE_STRATEGY", strategy)], ShellKind::Bash);
        // The second time, submodules are there already.
        for _ in 0..2 {
            let ran = place.run_stage("bash", "get_sources", &context);
            assert_eq!(ran.code, 0, "{strategy}: {}", ran.text);
            let project = place.project(&context);
            assert_eq!(project.join("sub/README.md").exists(), outer, "{strategy}");
            assert_eq!(project.join("sub/inner/README.md").exists(), inner, "{strategy}");
            let line = match strategy {
                "none" => "Skipping Git submodules setup",
                "normal" => "Updating/initializing submodules with git depth set to 20...",
                _ => "Updating/initializing submodules recursively with git depth set to 20...",
            };
            assert!(ran.lines().contains(&line.to_owned()), "{strategy}: {}", ran.text);
            assert_eq!(ran.lines().contains(&"Updated submodules".to_owned()), outer);
        }
    }
}

#[test]
fn an_unknown_submodule_strategy_is_a_failure_of_the_runner() {
    let place = Place::new();
    let context =
        place.context(json!({"variables": [{"key": "GIT_SUBMODULE_STRATEGY", "value": "some"}]}), ShellKind::Bash);
    let fault = script(&Stage::GetSources, &context).expect_err("refused");
    assert_eq!(fault, Fault::of(FailureReason::RunnerSystemFailure, "unknown GIT_SUBMODULE_STRATEGY"));
}

#[test]
fn lfs_files_without_git_lfs_fail_the_sources_of_a_container_unless_the_job_wants_pointers() {
    let check = |shell: &str, kind, attributes: &str, in_submodule: bool, shared: bool, skip: &str, fails: bool| {
        let place = Place::new();
        place.install("git-lfs", "#!/bin/sh\nexit 1\n");
        let mut remote = Remote::new(&place, "p");
        let mut part = Remote::new(&place, "part");
        fs::create_dir_all(part.work.join("deep")).expect("a directory");
        fs::create_dir_all(remote.work.join("deep")).expect("a directory");
        let holder = if in_submodule { &mut part } else { &mut remote };
        holder.commit(&place, "deep/.gitattributes", attributes);
        if in_submodule {
            place.git(&remote.work, &["submodule", "--quiet", "add", &part.url, "part"]);
            remote.commit(&place, "b.bin", "version https://git-lfs");
        }
        let variables = [("GIT_LFS_SKIP_SMUDGE", skip), ("GIT_SUBMODULE_STRATEGY", "normal")];
        let context = place.context_of(remote.fields(&variables, 20), kind, |facts| facts.shared_environment = shared);
        let ran = place.run_stage(shell, "get_sources", &context);
        assert_eq!((ran.code != 0, ran.text.contains("git-lfs is missing")), (fails, fails), "{shell}: {}", ran.text);
    };
    let wanted = "*.bin filter=lfs diff=lfs merge=lfs -text\n";
    for (shell, kind) in SHELLS {
        for in_submodule in [false, true] {
            check(shell, kind, wanted, in_submodule, false, "false", true);
        }
    }
    check("bash", ShellKind::Bash, wanted, true, false, "true", false);
    check("bash", ShellKind::Bash, wanted, true, true, "false", false);
    check("bash", ShellKind::Bash, "*.bin -text\n", true, false, "false", false);
}

#[test]
fn lfs_files_are_there_after_the_checkout_unless_the_job_wants_pointers() {
    let place = Place::new();
    if place.command("git").args(["lfs", "version"]).output().is_ok_and(|output| !output.status.success()) {
        return;
    }
    let mut remote = Remote::new(&place, "p");
    place.git(&remote.work, &["lfs", "install", "--local"]);
    fs::write(remote.work.join(".gitattributes"), "*.bin filter=lfs diff=lfs merge=lfs -text\n").expect("attributes");
    remote.commit(&place, "big.bin", "the content");
    for (skip, content) in [("false", "the content"), ("true", "version https://git-lfs")] {
        let context =
            remote.context(&place, &[("GIT_LFS_SKIP_SMUDGE", skip), ("GIT_STRATEGY", "clone")], ShellKind::Bash);
        place.git(&place.path("home"), &["config", "--global", "filter.lfs.smudge", "git-lfs smudge -- %f"]);
        place.git(&place.path("home"), &["config", "--global", "filter.lfs.clean", "git-lfs clean -- %f"]);
        let ran = place.run_stage("bash", "get_sources", &context);
        assert_eq!(ran.code, 0, "{}", ran.text);
        let found = fs::read_to_string(place.project(&context).join("big.bin")).expect("the file");
        assert!(found.starts_with(content), "{skip}: {found}: {}", ran.text);
    }
}

#[test]
fn hooks_run_around_the_sources_and_a_failing_one_fails_the_stage() {
    let place = Place::new();
    let remote = Remote::new(&place, "p");
    let mut fields = remote.fields(&[], 20);
    fields["hooks"] = json!([
        {"name": "pre_get_sources_script", "script": ["echo pre-job"]},
        {"name": "post_get_sources_script", "script": ["ls README.md"]},
    ]);
    let mut context = place.context(fields, ShellKind::Bash);
    context.runner.pre_get_sources = Some("echo pre-runner".to_owned());
    context.runner.post_get_sources = Some("echo post-runner; exit 9".to_owned());
    let ran = place.run_stage("bash", "get_sources", &context);
    let lines = without_empty(&ran);
    assert_eq!(lines[..4], ["$ echo pre-runner", "pre-runner", "$ echo pre-job", "pre-job"]);
    assert_eq!(lines[lines.len() - 4..], ["$ ls README.md", "README.md", "$ echo post-runner; exit 9", "post-runner"]);
    assert_eq!(ran.code, 9);
}

#[test]
fn a_hooks_last_status_that_errexit_lets_pass_does_not_fail_the_stage() {
    for (shell, kind) in SHELLS {
        let place = Place::new();
        let remote = Remote::new(&place, "p");
        let mut fields = remote.fields(&[], 20);
        let passes = "[ -f /nowhere ] && . /nowhere";
        fields["hooks"] = json!([
            {"name": "pre_get_sources_script", "script": [passes]}, {"name": "post_get_sources_script", "script": [passes]},
        ]);
        let mut context = place.context(fields, kind);
        context.runner.pre_get_sources = Some(passes.to_owned());
        context.runner.post_get_sources = Some(passes.to_owned());
        let ran = place.run_stage(shell, "get_sources", &context);
        assert_eq!(ran.code, 0, "{shell}: {}", ran.text);
    }
}

#[test]
fn clear_worktree_takes_everything_away() {
    let place = Place::new();
    let remote = Remote::new(&place, "p");
    let context = remote.context(&place, &[], ShellKind::Bash);
    assert_eq!(
        place.run_stage("bash", "clear_worktree", &context),
        Ran { code: 0, text: "\u{1b}[32;1mDeleting tracked and untracked files...\u{1b}[0;m\n".to_owned() }
    );
    place.run_stage("bash", "get_sources", &context);
    let project = place.project(&context);
    fs::write(project.join("untracked"), "").expect("a file");
    assert_eq!(place.run_stage("bash", "clear_worktree", &context).code, 0);
    let left: Vec<_> =
        fs::read_dir(&project).expect("the project").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left, [".git"]);
}

#[test]
fn the_token_is_never_in_the_checkout_and_git_still_uses_it() {
    let place = Place::new();
    let variables = json!([{"key": "GIT_CHECKOUT", "value": "false"}, {"key": "GIT_SUBMODULE_FORCE_HTTPS", "value": "1"}, {"key": "CI_SERVER_HOST", "value": "gitlab.example"}]);
    let context = place.context(json!({"variables": variables}), ShellKind::Bash);
    // The fetch fails, there being no such server; the settings are there by then.
    let ran = place.run_stage("bash", "get_sources", &context);
    assert_ne!(ran.code, 0, "{}", ran.text);
    let project = place.project(&context);
    let config = fs::read_to_string(project.join(".git/config")).expect("settings");
    assert!(!config.contains("64_job-token"), "{config}");
    for (asked, used) in [
        ("https://gitlab.example/g/p.git", "https://gitlab-ci-token:64_job-token@gitlab.example/g/p.git"),
        ("https://gitlab.example/other.git", "https://gitlab-ci-token:64_job-token@gitlab.example/other.git"),
        ("git@gitlab.example:other.git", "https://gitlab-ci-token:64_job-token@gitlab.example/other.git"),
        ("ssh://git@gitlab.example/other.git", "https://gitlab-ci-token:64_job-token@gitlab.example/other.git"),
        ("https://elsewhere.example/x.git", "https://elsewhere.example/x.git"),
    ] {
        assert_eq!(place.git(&project, &["ls-remote", "--get-url", asked]), used);
    }
    assert_eq!(place.git(&project, &["config", "http.extraHeader"]), "X-Gitaly-Correlation-ID: 01KCORR");
    // The next job's token takes the place of this one's, and after the job there is none.
    assert_eq!(place.run_stage("bash", "cleanup_file_variables", &context).code, 0);
    let left = fs::read_dir(&context.job.dirs.tmp_dir)
        .expect("the directory")
        .map(|entry| entry.expect("an entry").file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["git-template"]);
}

#[test]
fn without_tokens_in_urls_the_credentials_come_from_the_jobs_variables() {
    for strategy in ["fetch", "none"] {
        let place = Place::new();
        let variables = json!([
            {"key": "FF_GIT_URLS_WITHOUT_TOKENS", "value": "true"}, {"key": "GIT_STRATEGY", "value": strategy},
            {"key": "CI_JOB_TOKEN", "value": "64_job-token"},
        ]);
        let fill = "printf 'protocol=https\\nhost=gitlab.example\\n\\n' | git credential fill";
        let steps = json!([{"name": "script", "script": [fill, "git config user.name"]}]);
        let context = place.context(json!({"variables": variables, "steps": steps}), ShellKind::Bash);
        place.run_stage("bash", "get_sources", &context);
        let external =
            fs::read_to_string(format!("{}/.gitlab-runner.ext.conf", context.job.dirs.tmp_dir)).expect("settings");
        assert!(!external.contains("64_job-token"), "{external}");
        let lines = place.run_stage("bash", "step_script", &context).lines();
        for line in ["username=gitlab-ci-token", "password=64_job-token", "n"] {
            assert!(lines.contains(&line.to_owned()), "{strategy}: {lines:?}");
        }
    }
}

/// A job whose URLs carry no tokens, with a step that asks git what it is given.
fn without_tokens(place: &Place, strategy: &str, script: &[&str], kind: ShellKind) -> ScriptContext {
    let variables = json!([
        {"key": "FF_GIT_URLS_WITHOUT_TOKENS", "value": "true"}, {"key": "GIT_STRATEGY", "value": strategy},
        {"key": "CI_JOB_TOKEN", "value": "64_job-token"},
    ]);
    place.context(json!({"variables": variables, "steps": [{"name": "script", "script": script}]}), kind)
}

#[test]
fn without_tokens_in_urls_settings_of_the_user_that_cannot_be_read_are_left_out() {
    for (shell, kind) in SHELLS {
        let place = Place::new();
        let context = without_tokens(&place, "none", &["git config credential.https://gitlab.example.username"], kind);
        // The superuser, who may run this, can read all but what leads nowhere.
        let home = place.path("circle");
        fs::create_dir(&home).expect("a home");
        std::os::unix::fs::symlink(".gitconfig", home.join(".gitconfig")).expect("a link");
        for home in [Some(home), None] {
            for (stage, last) in [("get_sources", "Skipping Git submodules setup"), ("step_script", "gitlab-ci-token")]
            {
                let mut command = place.command(shell);
                command.env_remove("HOME");
                command.envs(home.iter().map(|home| ("HOME", home)));
                let ran = place.run(command, &place.script(stage, &context), true);
                assert_eq!(ran.code, 0, "{shell}, home {home:?}: {}", ran.text);
                assert_eq!(ran.lines().last().map(String::as_str), Some(last), "{shell}, home {home:?}: {}", ran.text);
            }
        }
    }
}

#[test]
fn without_tokens_in_urls_the_credentials_are_for_the_host_of_the_sources() {
    for strategy in ["fetch", "none"] {
        let place = Place::new();
        let mut context = without_tokens(&place, strategy, &[], ShellKind::Bash);
        context.runner.url = "https://internal.example:8443/".to_owned();
        place.run_stage("bash", "get_sources", &context);
        let external =
            fs::read_to_string(format!("{}/.gitlab-runner.ext.conf", context.job.dirs.tmp_dir)).expect("settings");
        assert!(external.contains("[credential \"https://gitlab.example\"]"), "{strategy}: {external}");
        assert!(!external.contains("[credential \"https://internal.example:8443\"]"), "{strategy}: {external}");
    }
}

#[test]
fn without_tokens_in_urls_settings_of_one_stage_hold_in_the_next_and_end_with_the_job() {
    for (shell, kind) in SHELLS {
        let place = Place::new();
        let set = "git config --get-all safe.directory; git config --global job.key of-the-job; git config user.name";
        let context = without_tokens(&place, "fetch", &[set], kind);
        let mut safe = context.clone();
        safe.runner.safe_directory_checkout = true;
        // The fetch fails, there being no such server; the settings are there by then.
        place.run_stage(shell, "get_sources", &safe);
        let first = place.run_stage(shell, "step_script", &context).lines();
        let project = place.project(&context).display().to_string();
        assert_eq!(first[1..], [project, "n".to_owned()], "{shell}");
        let key = without_tokens(&place, "fetch", &["git config --default gone job.key"], kind);
        let later = place.run_stage(shell, "step_script", &key).lines();
        assert_eq!(later.last().map(String::as_str), Some("of-the-job"), "{shell}");
        place.run_stage(shell, "get_sources", &key);
        let next = place.run_stage(shell, "step_script", &key).lines();
        assert_eq!(next.last().map(String::as_str), Some("gone"), "{shell}");
        let cleanup = place.script("cleanup_file_variables", &key);
        assert!(
            cleanup.contains("export GIT_CONFIG_GLOBAL="),
            "its credential helpers forget the token too: {cleanup}"
        );
        let own = fs::read_to_string(place.path("home/.gitconfig")).expect("the user's settings");
        assert!(!own.contains("of-the-job"), "{own}");
    }
}

#[test]
fn secrets_are_gone_after_the_cleanup_and_the_checkout_where_asked_for() {
    let place = Place::new();
    let remote = Remote::new(&place, "p");
    for (strategy, flag, kept) in [("fetch", "false", true), ("fetch", "true", true), ("clone", "true", false)] {
        let mut fields = remote.fields(&[("GIT_STRATEGY", strategy), ("FF_ENABLE_JOB_CLEANUP", flag)], 0);
        fields["variables"]
            .as_array_mut()
            .expect("a list")
            .push(json!({"key": "KEY_FILE", "value": "s3cret", "file": true}));
        let context = place.context(fields, ShellKind::Bash);
        assert_eq!(place.run_stage("bash", "get_sources", &context).code, 0);
        let project = place.project(&context);
        fs::write(project.join("built"), "").expect("a file");
        let ran = place.run_stage("bash", "cleanup_file_variables", &context);
        assert_eq!(ran.code, 0, "{}", ran.text);
        assert_eq!(project.join("README.md").exists(), kept, "{strategy} {flag}");
        assert_eq!(project.join("built").exists(), flag == "false", "{strategy} {flag}");
        let found = place.command("grep").args(["-rl", "s3cret"]).arg(place.path("builds")).output().expect("grep");
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    }
}

#[test]
fn tls_files_are_settings_of_the_job_or_of_its_container() {
    for shared in [true, false] {
        let place = Place::new();
        let context = place.context_of(json!({}), ShellKind::Bash, |facts| {
            facts.tls = TlsData { ca_chain: "PEM".to_owned(), certificate: String::new(), key: Secret::default() };
            facts.shared_environment = shared;
        });
        place.run_stage("bash", "get_sources", &context);
        let global = fs::read_to_string(place.path("home/.gitconfig")).expect("settings");
        assert_eq!(global.contains("sslCAInfo"), !shared);
        let project = place.project(&context);
        let value = place.git(&project, &["config", "http.https://gitlab.example.sslCAInfo"]);
        assert_eq!(value, format!("{}/CI_SERVER_TLS_CA_FILE", context.job.dirs.tmp_dir));
    }
}
