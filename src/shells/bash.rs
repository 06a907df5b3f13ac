//! Scripts for bash, and for every POSIX shell.
//!
//! The whole script is one group command, so a shell that reads it from its standard input has all of
//! it before `exec </dev/null` takes that input away, and never comes back for more. The user's
//! commands are one `eval`, so nothing in them, such as a stray `}`, can end the group, and the shell
//! reads them one by one as it does a file: aliases hold from the next line on. No subshell is forked
//! for them, and no process where the shell itself can tell that there is nothing to do.

use super::writer::{Command, Echo, ExitCheck, LastStatus, Style, Test, Writer};
use super::{Script, ShellKind};
use crate::shell_quote::quote;

/// Writes for bash or another POSIX shell.
#[derive(Debug)]
pub struct BashWriter {
    shell: ShellKind,
    text: String,
}

impl BashWriter {
    /// `xtrace`: the shell shows each command that it runs.
    pub fn new(shell: ShellKind, xtrace: bool) -> Self {
        let mut writer = Self { shell, text: format!("#!/usr/bin/env {}\n\n{{\n", shell.as_str()) };
        writer.line("trap 'exit 1' TERM");
        if xtrace {
            writer.line("set -o xtrace");
        }
        // Asking a shell for its options costs a fork, which bash can be spared.
        writer.line(
            "if [ -n \"${BASH_VERSION:-}\" ]; then set -o pipefail; \
             else case \"$(set -o)\" in *pipefail*) set -o pipefail ;; esac; fi",
        );
        writer.line("set -o errexit; set +o noclobber");
        writer.line("exec </dev/null");
        writer
    }

    /// The script is whole.
    pub fn finish(mut self) -> Script {
        self.text.push_str("exit 0\n}\n");
        Script::new(self.text)
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn path_list(paths: &[&str]) -> String {
        paths.iter().map(|path| quote(path)).collect::<Vec<_>>().join(" ")
    }
}

/// A command as one line of the shell.
fn command_line(command: &Command) -> String {
    command.words().iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

/// A line that prints `text` in a style.
fn print_line(style: Style, text: &str) -> String {
    let colour = match style {
        Style::Plain => return format!("printf '%s\\n' {}", quote(text)),
        Style::Notice => "\\033[32;1m",
        Style::Warning => "\\033[0;33m",
        Style::Error => "\\033[31;1m",
    };
    format!("printf '{colour}%s\\033[0;m\\n' {}", quote(text))
}

impl Writer for BashWriter {
    fn say(&mut self, style: Style, text: &str) {
        self.line(&print_line(style, text));
    }

    fn say_nothing(&mut self) {
        self.line("echo");
    }

    fn say_host(&mut self, manager: &str) {
        let manager = quote(manager).into_owned();
        self.line(&format!("printf 'Running on %s via %s...\\n' \"${{HOSTNAME:-$(uname -n)}}\" {manager}"));
    }

    fn export(&mut self, key: &str, value: &str) {
        self.line(&format!("export {key}={}", quote(value)));
    }

    fn load_environment(&mut self, file: &str) {
        let file = quote(file);
        let text = format!(": >> {file}\nwhile read -r line; do export \"$line\"; done < {file}");
        self.line(&text);
    }

    fn run(&mut self, command: &Command) {
        self.line(&command_line(command));
    }

    fn run_with_home_file(&mut self, command: &Command, file: &str) {
        self.line(&format!("{} \"$HOME\"/{}", command_line(command), quote(file)));
    }

    fn try_with_input(&mut self, input: &str, command: &Command) {
        self.line(&format!("printf %s {} | {} || true", quote(input), command_line(command)));
    }

    fn change_dir(&mut self, path: &str) {
        self.line(&format!("cd {}", quote(path)));
    }

    fn make_dirs(&mut self, paths: &[&str]) {
        let missing: Vec<String> = paths.iter().map(|path| format!("[ -d {} ]", quote(path))).collect();
        self.line(&format!("{} || mkdir -p {}", missing.join(" && "), Self::path_list(paths)));
    }

    fn write_file(&mut self, path: &str, content: &str) {
        self.line(&format!("printf %s {} > {}", quote(content), quote(path)));
    }

    fn remove_files(&mut self, paths: &[&str]) {
        let paths = Self::path_list(paths);
        self.line(&format!(
            "for f in {paths}; do if [ -e \"$f\" ] || [ -L \"$f\" ]; then rm -f {paths}; break; fi; done"
        ));
    }

    fn remove_dirs(&mut self, paths: &[&str]) {
        for path in paths {
            let path = quote(path);
            // What belongs to someone else cannot be changed, but perhaps removed.
            self.line(&format!(
                "if [ -e {path} ] || [ -L {path} ]; then [ -L {path} ] || chmod -R u+rwX {path} || :; rm -rf {path}; fi"
            ));
        }
    }

    fn remove_files_below(&mut self, directory: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| format!("-name {}", quote(name))).collect();
        let directory = quote(directory);
        self.line(&format!(
            "if [ -d {directory} ]; then find {directory} -type f \\( {} \\) -exec rm -f {{}} +; fi",
            names.join(" -o ")
        ));
    }

    fn remove_dirs_below(&mut self, directory: &str, name: &str) {
        let directory = quote(directory);
        self.line(&format!(
            "if [ -d {directory} ]; then find {directory} -depth -type d -name {} -exec rm -rf {{}} +; fi",
            quote(name)
        ));
    }

    fn begin_if(&mut self, test: &Test<'_>) {
        let condition = match test {
            Test::Runs(command) => command_line(command),
            Test::RunsQuietly(command) => format!("{} >/dev/null 2>&1", command_line(command)),
            Test::Directory(path) => format!("[ -d {} ]", quote(path)),
            Test::File(path) => format!("[ -f {} ]", quote(path)),
            Test::ReadableAtHome(file) => format!("[ -n \"${{HOME:-}}\" ] && [ -r \"$HOME\"/{} ]", quote(file)),
            Test::HomeIsClosed => "[ ! -w \"${HOME:-}\" ]".to_owned(),
            Test::GitAtLeast(version) => format!(
                "[ \"$(printf '%s\\n%s\\n' {version} \"$(git version | cut -d' ' -f3)\" \
                 | sort -t. -k1,1n -k2,2n -k3,3n | head -n1)\" = {version} ]",
                version = quote(version)
            ),
        };
        self.line(&format!("if {condition}; then"));
    }

    fn otherwise(&mut self) {
        self.line("else");
    }

    fn end_if(&mut self) {
        self.line("fi");
    }

    fn user_commands(&mut self, commands: &[String], echo: Echo<'_>, check: ExitCheck, last: LastStatus) {
        let mut body = String::new();
        for (index, command) in commands.iter().enumerate() {
            let command = command.trim();
            body.push_str(&self.announcement(command, echo, index));
            body.push('\n');
            body.push_str(command);
            body.push('\n');
            if check == ExitCheck::Explicit {
                body.push_str(
                    "_runner_exit_code=$?; if [ $_runner_exit_code -ne 0 ]; then exit $_runner_exit_code; fi\n",
                );
            }
        }
        if last == LastStatus::Passes {
            // After an empty line, which a backslash at the end of the last command may have.
            body.push_str("\n:\n");
        }
        self.line(&format!("eval {}", quote(&body)));
        // Even where the commands turned errexit off. What cannot be read as commands fails in any case.
        self.line("_runner_exit_code=$?; if [ $_runner_exit_code -ne 0 ]; then exit $_runner_exit_code; fi");
    }
}

impl BashWriter {
    /// What shows a command before it runs.
    fn announcement(&self, command: &str, echo: Echo<'_>, index: usize) -> String {
        if command.is_empty() {
            return "echo".to_owned();
        }
        let Some((first_line, _)) = command.split_once('\n') else {
            return print_line(Style::Notice, &format!("$ {command}"));
        };
        match echo {
            Echo::Sections { prefix } if self.shell == ShellKind::Bash => {
                let shown = quote(&format!("$ {command}")).into_owned();
                let section = format!("section_{prefix}_{index}");
                format!(
                    "printf 'section_start:%s:{section}[hide_duration=true,collapsed=true]\\r\\033[0K\\033[32;1m%s\\033[0;m\\n\
                     section_end:%s:{section}\\r\\033[0K\\n' \
                     \"${{EPOCHSECONDS:-$(date +%s)}}\" {shown} \"${{EPOCHSECONDS:-$(date +%s)}}\""
                )
            }
            Echo::Sections { .. } | Echo::FirstLine => {
                print_line(Style::Notice, &format!("$ {} # collapsed multi-line command", first_line.trim_end()))
            }
        }
    }
}
