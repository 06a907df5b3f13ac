//! What a stage's script can be made of, whatever the shell.

use crate::job::settings::JobSettings;

/// A program with its arguments, each one word as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command(Vec<String>);

impl Command {
    pub fn new(program: &str) -> Self {
        Self(vec![program.to_owned()])
    }

    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.0.push(argument.into());
        self
    }

    #[must_use]
    pub fn args<T: Into<String>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.0.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub fn words(&self) -> &[String] {
        &self.0
    }
}

/// How a line of the runner looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    /// Green.
    Notice,
    /// Yellow.
    Warning,
    /// Red.
    Error,
}

/// What a branch depends on.
#[derive(Clone, Copy, Debug)]
pub enum Test<'a> {
    /// The command succeeds; its output is shown.
    Runs(&'a Command),
    /// The command succeeds; its output is hidden.
    RunsQuietly(&'a Command),
    Directory(&'a str),
    File(&'a str),
    /// A file below the user's home, as the script finds it, can be read.
    ReadableAtHome(&'a str),
    /// The user's home, as the script finds it, cannot be written to, or there is none.
    HomeIsClosed,
    /// `git version` is at least this, such as `2.49`.
    GitAtLeast(&'a str),
}

/// How the user's commands are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo<'a> {
    /// A command of several lines shows its first one.
    FirstLine,
    /// A command of several lines is shown whole, in a section of its own: `section_<prefix>_<index>`.
    Sections { prefix: &'a str },
}

/// A script being written. Paths are absolute. Any command that fails ends the script with its status,
/// unless its method says otherwise.
pub trait Writer {
    /// A line of text.
    fn say(&mut self, style: Style, text: &str);
    /// An empty line.
    fn say_nothing(&mut self);
    /// `Running on <this host> via <manager>...`
    fn say_host(&mut self, manager: &str);

    /// Sets a variable for this script and what it runs.
    fn export(&mut self, key: &str, value: &str);
    /// Sets variables by the `KEY=VALUE` lines of a file, which is made where it is missing.
    fn load_environment(&mut self, file: &str);

    fn run(&mut self, command: &Command);
    /// Runs a command whose last argument is the path of a file below the user's home, as the script finds it.
    fn run_with_home_file(&mut self, command: &Command, file: &str);
    /// Runs a command with `input`; its failure changes nothing.
    fn try_with_input(&mut self, input: &str, command: &Command);

    fn change_dir(&mut self, path: &str);
    /// Makes directories and those above them, where they are missing.
    fn make_dirs(&mut self, paths: &[&str]);
    /// Replaces the content of a file.
    fn write_file(&mut self, path: &str, content: &str);
    /// Removes files, as far as they are there.
    fn remove_files(&mut self, paths: &[&str]);
    /// Removes directories with all that is in them, also where their permissions forbid it.
    fn remove_dirs(&mut self, paths: &[&str]);
    /// Removes files of these names (patterns of `find`) below a directory that is there.
    fn remove_files_below(&mut self, directory: &str, names: &[&str]);
    /// Removes directories of this name below a directory that is there.
    fn remove_dirs_below(&mut self, directory: &str, name: &str);

    fn begin_if(&mut self, test: &Test<'_>);
    fn otherwise(&mut self);
    fn end_if(&mut self);

    /// The job's own commands, in order, each announced before it runs. They share one shell.
    fn user_commands(&mut self, commands: &[String], echo: Echo<'_>, check: ExitCheck, last: LastStatus);
}

/// Whether each of the user's commands is checked by the script, even where the commands have turned the
/// shell's own check off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCheck {
    ByShell,
    Explicit,
}

/// What the status of the last of a group of commands is, where the shell itself lets it pass: that of
/// `[ -f x ] && . x`, or of anything where the commands have turned errexit off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastStatus {
    /// The script's: it ends here with that status, unless it is zero.
    Counts,
    /// One among others, as more of the script follows.
    Passes,
}

/// `git clean` with these flags; `None` where there are none.
pub(crate) fn git_clean(settings: &JobSettings) -> Option<Command> {
    let flags = &settings.git_clean_flags;
    (!flags.is_empty()).then(|| Command::new("git").arg("clean").args(flags.iter().cloned()))
}
