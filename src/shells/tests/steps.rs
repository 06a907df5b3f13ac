use std::os::unix::process::CommandExt as _;
use std::os::unix::process::ExitStatusExt as _;

use super::*;

/// Runs `commands` as the script of a job in every shell, as a file and as standard input.
fn check(commands: &[&str], code: i32, lines: &[&str]) {
    check_with(json!({}), commands, code, lines);
}

fn check_with(mut fields: Value, commands: &[&str], code: i32, lines: &[&str]) {
    fields["steps"] = json!([{"name": "script", "script": commands}]);
    for (shell, kind) in SHELLS {
        for as_file in [true, false] {
            let place = Place::new();
            let context = place.context(fields.clone(), kind);
            place.make_project(&context);
            let ran = place.run(place.command(shell), &place.script("step_script", &context), as_file);
            assert_eq!((ran.code, ran.lines()), (code, strings(lines)), "{shell}, {kind:?}, as a file: {as_file}");
        }
    }
}

#[test]
fn each_command_is_shown_in_green_before_it_runs() {
    let place = Place::new();
    let context = place.context(
        json!({"steps": [{"name": "script", "script": ["echo hello", "echo 'it'\\''s $HOME' >&2"]}]}),
        ShellKind::Bash,
    );
    place.make_project(&context);
    let ran = place.run_stage("bash", "step_script", &context);
    assert_eq!(
        ran.text,
        "\u{1b}[32;1m$ echo hello\u{1b}[0;m\nhello\n\u{1b}[32;1m$ echo 'it'\\''s $HOME' >&2\u{1b}[0;m\nit's $HOME\n"
    );
}

#[test]
fn the_exit_code_of_the_failing_command_is_the_scripts() {
    check(&["exit 7", "echo never"], 7, &["$ exit 7"]);
    check(&["(exit 3)", "echo never"], 3, &["$ (exit 3)"]);
    check(&["no-such-command-here 2>/dev/null"], 127, &["$ no-such-command-here 2>/dev/null"]);
}

#[test]
fn the_last_command_counts_even_without_errexit() {
    check(&["set +e", "false", "echo on", "false"], 1, &["$ set +e", "$ false", "$ echo on", "on", "$ false"]);
    check(&["set +e", "false", "true"], 0, &["$ set +e", "$ false", "$ true"]);
}

#[test]
fn an_error_of_syntax_ends_the_script_where_it_stands() {
    for (shell, kind) in SHELLS {
        let place = Place::new();
        let fields = json!({"steps": [{"name": "script", "script": ["echo first", "if true; then"]}]});
        let mut context = place.context(fields, kind);
        context.runner.post_build = Some("echo never".to_owned());
        place.make_project(&context);
        let ran = place.run_stage(shell, "step_script", &context);
        assert_ne!(ran.code, 0, "{shell}");
        assert_eq!(ran.lines()[..2], ["$ echo first", "first"], "{shell}: the commands before it have run");
        assert!(!ran.lines().contains(&"never".to_owned()), "{shell}: {}", ran.text);
    }
}

#[test]
fn an_alias_holds_from_the_next_command_on() {
    check(
        &["[ -z \"$BASH_VERSION\" ] || shopt -s expand_aliases", "alias greet='echo hi'", "greet"],
        0,
        &["$ [ -z \"$BASH_VERSION\" ] || shopt -s expand_aliases", "$ alias greet='echo hi'", "$ greet", "hi"],
    );
}

#[test]
fn commands_share_one_shell() {
    check(
        &["cd /", "x=1", "greet() { echo \"$x in $PWD\"; }", "greet"],
        0,
        &["$ cd /", "$ x=1", "$ greet() { echo \"$x in $PWD\"; }", "$ greet", "1 in /"],
    );
}

#[test]
fn commands_find_nothing_on_standard_input() {
    check(&["cat", "read line || echo end"], 0, &["$ cat", "$ read line || echo end", "end"]);
}

#[test]
fn nothing_in_a_command_ends_the_scripts_own_frame() {
    for (shell, kind) in SHELLS {
        let place = Place::new();
        let context = place.context(json!({"steps": [{"name": "script", "script": ["}; echo out", "'"]}]}), kind);
        place.make_project(&context);
        let ran = place.run_stage(shell, "step_script", &context);
        assert_ne!(ran.code, 0, "{shell}");
        assert!(!ran.lines().contains(&"out".to_owned()), "{shell}: {}", ran.text);
    }
}

#[test]
fn a_command_of_several_lines_shows_its_first() {
    check(
        &["echo a\necho b", "  cat <<END\n  kept\nEND\n"],
        0,
        &["$ echo a # collapsed multi-line command", "a", "b", "$ cat <<END # collapsed multi-line command", "  kept"],
    );
}

#[test]
fn an_empty_command_is_an_empty_line() {
    check(&["", "echo a", " \n "], 0, &["", "$ echo a", "a", ""]);
}

#[test]
fn a_failing_part_of_a_pipe_fails_where_the_shell_can_tell() {
    for (shell, code) in [("bash", 1), ("dash", 0)] {
        let place = Place::new();
        let context =
            place.context(json!({"steps": [{"name": "script", "script": ["true | false | true"]}]}), ShellKind::Bash);
        place.make_project(&context);
        assert_eq!(place.run_stage(shell, "step_script", &context).code, code, "{shell}");
    }
}

#[test]
fn every_command_is_checked_where_the_flag_asks_for_it() {
    let flag = json!({"variables": [{"key": "FF_ENABLE_BASH_EXIT_CODE_CHECK", "value": "1"}]});
    check_with(flag, &["set +e", "(exit 5)", "echo never"], 5, &["$ set +e", "$ (exit 5)"]);
}

#[test]
fn scripts_of_the_runner_stand_around_those_of_the_job() {
    let place = Place::new();
    let mut context = place.context(json!({"steps": [{"name": "script", "script": ["echo b"]}]}), ShellKind::Bash);
    context.runner.pre_build = Some("echo a\nx=1".to_owned());
    context.runner.post_build = Some("echo c$x".to_owned());
    place.make_project(&context);
    let lines = place.run_stage("bash", "step_script", &context).lines();
    assert_eq!(lines, ["$ echo a # collapsed multi-line command", "a", "$ echo b", "b", "$ echo c$x", "c1"]);
}

/// What a step prints and ends with where the runner has scripts around it, in every shell.
fn check_around(pre_build: &str, commands: &[&str], post_build: &str, code: i32, lines: &[&str]) {
    for (shell, kind) in SHELLS {
        let place = Place::new();
        let mut context = place.context(json!({"steps": [{"name": "script", "script": commands}]}), kind);
        context.runner.pre_build = Some(pre_build.to_owned());
        context.runner.post_build = Some(post_build.to_owned()).filter(|text| !text.is_empty());
        place.make_project(&context);
        let ran = place.run_stage(shell, "step_script", &context);
        let shown: Vec<String> = ran.lines().into_iter().filter(|line| !line.starts_with("$ ")).collect();
        assert_eq!((ran.code, shown), (code, strings(lines)), "{shell}, {kind:?}");
    }
}

#[test]
fn a_last_status_that_errexit_lets_pass_counts_only_at_the_end_of_the_step() {
    check_around("[ -f /nowhere ] && . /nowhere", &["echo b"], "", 0, &["b"]);
    check_around("set +e\nfalse", &["echo b"], "echo c", 0, &["b", "c"]);
    check_around("echo a \\", &["echo b", "[ -n \"\" ] && echo never"], "echo c", 0, &["a", "b", "c"]);
    check_around("echo a # \\", &["echo b"], "[ -n \"\" ] && echo never", 1, &["a", "b"]);
    check_around("true", &["echo b", "[ -n \"\" ] && echo never"], "", 1, &["b"]);
}

#[test]
fn a_failure_that_errexit_sees_ends_the_step_wherever_it_is() {
    check_around("echo a\n(exit 4)", &["echo never"], "echo never", 4, &["a"]);
    check_around("true", &["(exit 5)"], "echo never", 5, &[]);
    check_around("set +e\nexit 6", &["echo never"], "", 6, &[]);
}

#[test]
fn what_is_no_command_ends_the_step_even_without_errexit() {
    for (shell, kind) in SHELLS {
        let place = Place::new();
        let mut context = place.context(json!({"steps": [{"name": "script", "script": ["echo never"]}]}), kind);
        context.runner.pre_build = Some("set +e\nif true; then".to_owned());
        place.make_project(&context);
        let ran = place.run_stage(shell, "step_script", &context);
        assert!(ran.code != 0 && !ran.lines().contains(&"never".to_owned()), "{shell}: {}", ran.text);
    }
}

#[test]
fn values_reach_the_script_as_they_are() {
    let wild = "it's \"quoted\" $HOME `id` a;b\n\\n ~ {x,y} * é\t!";
    let variables = json!({"variables": [
        {"key": "WILD", "value": wild, "raw": true}, {"key": "EMPTY", "value": ""}, {"key": "DASH", "value": "-n"},
        {"key": "TWICE", "value": "1"}, {"key": "TWICE", "value": "2"}, {"key": "NOT-A-NAME", "value": "x"},
    ]});
    let mut expected = vec!["$ printf '%s|' \"$WILD\" \"$EMPTY\" \"$DASH\" \"$TWICE\""];
    let text = format!("{wild}||-n|2|");
    expected.extend(text.lines());
    check_with(variables, &["printf '%s|' \"$WILD\" \"$EMPTY\" \"$DASH\" \"$TWICE\""], 0, &expected);
}

#[test]
fn a_file_variable_is_a_path_to_its_content() {
    let variables = json!({"variables": [
        {"key": "CONF", "value": "a='1'\nb=$CI_SERVER\n", "file": true}, {"key": "USE", "value": "--config=$CONF"},
    ]});
    check_with(
        variables,
        &["cat \"$CONF\"", "cat \"${USE#--config=}\" | wc -l | tr -d ' '"],
        0,
        &["$ cat \"$CONF\"", "a='1'", "b=yes", "$ cat \"${USE#--config=}\" | wc -l | tr -d ' '", "2"],
    );
}

#[test]
fn lines_in_gitlab_env_are_variables_of_later_stages() {
    for (shell, kind) in SHELLS {
        let place = Place::new();
        let steps = json!([
            {"name": "script", "script": ["echo 'LEFT=a  \"b\" $HOME' >> \"$GITLAB_ENV\"; echo KEPT=1 >> \"$GITLAB_ENV\""]},
            {"name": "after_script", "script": ["echo \"$LEFT|$KEPT|$CI_JOB_STATUS\""]},
        ]);
        let mut context = place.context(json!({"steps": steps}), kind);
        place.make_project(&context);
        assert_eq!(place.run_stage(shell, "step_script", &context).code, 0);
        context.job_status = JobStatus::Success;
        let ran = place.run_stage(shell, "after_script", &context);
        assert_eq!(
            ran.lines(),
            ["Running after script...", "$ echo \"$LEFT|$KEPT|$CI_JOB_STATUS\"", "a  \"b\" $HOME|1|success"],
            "{shell}"
        );
        // The next job begins without them.
        place.run_stage(shell, "prepare_script", &context);
        let ran = place.run_stage(shell, "after_script", &context);
        assert_eq!(ran.lines().last().map(String::as_str), Some("||success"), "{shell}");
    }
}

#[test]
fn debug_trace_shows_what_runs() {
    let place = Place::new();
    let fields = json!({"variables": [{"key": "CI_DEBUG_TRACE", "value": "true"}], "steps": [{"name": "script", "script": ["true 1"]}]});
    let context = place.context(fields, ShellKind::Bash);
    place.make_project(&context);
    let ran = place.run_stage("bash", "step_script", &context);
    assert!(ran.text.contains("+ export CI_DEBUG_TRACE=true"), "{}", ran.text);
    assert!(ran.text.contains("+ true 1"), "{}", ran.text);
}

#[test]
fn the_host_is_named_in_the_first_stage() {
    for (shell, kind) in SHELLS {
        let place = Place::new();
        let context = place.context(json!({}), kind);
        assert_eq!(place.run_stage(shell, "prepare_script", &context).text, "Running on here via manager...\n");
        let mut command = place.command(shell);
        command.env_remove("HOSTNAME");
        let ran = place.run(command, &place.script("prepare_script", &context), true);
        let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a host name");
        assert_eq!(ran.text, format!("Running on {} via manager...\n", host.trim()), "{shell}");
    }
}

#[test]
fn sections_wrap_commands_of_several_lines_where_the_flag_asks_for_it() {
    let place = Place::new();
    let fields = json!({
        "variables": [{"key": "FF_SCRIPT_SECTIONS", "value": "true"}],
        "steps": [{"name": "script", "script": ["echo one", "echo a\necho 'b'"]}],
    });
    let context = place.context(fields.clone(), ShellKind::Bash);
    place.make_project(&context);
    let text = place.run_stage("bash", "step_script", &context).text;
    let digits: String = text.chars().filter(|c| !c.is_ascii_digit()).collect();
    assert_eq!(
        digits,
        "\u{1b}[;m$ echo one\u{1b}[;m\none\n\
         section_start::section_script_step_[hide_duration=true,collapsed=true]\r\u{1b}[K\u{1b}[;m$ echo a\necho 'b'\u{1b}[;m\n\
         section_end::section_script_step_\r\u{1b}[K\na\nb\n"
    );
    assert!(text.contains(":section_script_step_1["), "{text}");
    let sh = place.context(fields, ShellKind::Sh);
    assert!(!place.run_stage("dash", "step_script", &sh).text.contains("section_start"));
}

#[test]
fn a_terminated_script_ends_with_its_processes() {
    for (shell, kind) in SHELLS {
        let place = Place::new();
        let context = place.context(
            json!({"steps": [{"name": "script", "script": ["sh -c 'echo up; exec sleep 60'", "echo never"]}]}),
            kind,
        );
        place.make_project(&context);
        fs::write(place.path("script"), place.script("step_script", &context)).expect("a script");
        let mut command = place.command(shell);
        command
            .arg(place.path("script"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        let mut child = command.spawn().expect("a shell");
        let mut stdout = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        while !line.starts_with("up") {
            line.clear();
            assert_ne!(std::io::BufRead::read_line(&mut stdout, &mut line).expect("a line"), 0, "{shell} ended early");
        }
        let group = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process_group(group, rustix::process::Signal::TERM).expect("a signal");
        let status = child.wait().expect("an end");
        assert_eq!((status.code(), status.signal()), (Some(1), None), "{shell}");
    }
}

#[test]
fn a_trivial_job_needs_no_process_but_the_shell() {
    for (shell, kind) in SHELLS {
        let place = Place::new();
        let fields = json!({
            "variables": [{"key": "GIT_STRATEGY", "value": "none"}], "steps": [{"name": "script", "script": ["echo hello"]}],
        });
        let context = place.context(fields, kind);
        place.make_project(&context);
        fs::create_dir_all(&context.job.dirs.tmp_dir).expect("the temporary directory");
        let shell_path = ["/usr/bin", "/bin"]
            .iter()
            .map(|bin| Path::new(bin).join(shell))
            .find(|path| path.exists())
            .expect("a shell");
        for stage in ["prepare_script", "get_sources", "step_script"] {
            let mut command = place.command(&shell_path.to_string_lossy());
            command.env("PATH", "/nowhere");
            let ran = place.run(command, &place.script(stage, &context), true);
            assert_eq!(ran.code, 0, "{shell}: {stage}: {}", ran.text);
            assert!(!ran.text.contains("not found"), "{shell}: {stage}: {}", ran.text);
        }
    }
}
