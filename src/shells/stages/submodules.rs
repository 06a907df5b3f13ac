//! Submodules of the checkout.

use super::git_settings::external_file;
use super::{Command, ScriptContext, Style, Test, Writer, lfs, refused};
use crate::job::failure::Fault;
use crate::job::settings::{JobSettings, SubmoduleStrategy};

/// A token that git would take as "all but", and that could leave the paths meant.
const EXCLUDE_ALL: &str = ":(exclude)";

pub(super) fn update(context: &ScriptContext, writer: &mut dyn Writer) -> Result<(), Fault> {
    let settings = &context.job.settings;
    let recursive = match &settings.submodule_strategy {
        SubmoduleStrategy::None => {
            writer.say(Style::Notice, "Skipping Git submodules setup");
            return Ok(());
        }
        SubmoduleStrategy::Invalid(_) => return Err(refused("unknown GIT_SUBMODULE_STRATEGY")),
        SubmoduleStrategy::Normal => false,
        SubmoduleStrategy::Recursive => true,
    };
    if settings.submodule_paths.iter().any(|path| path == EXCLUDE_ALL) {
        return Err(refused(format!("GIT_SUBMODULE_PATHS: {EXCLUDE_ALL:?} needs a path of its own")));
    }
    let submodules = Submodules { settings, recursive, external: external_file(context) };
    submodules.announce(writer);
    submodules.update(writer);
    submodules.configure(writer);
    if !settings.lfs_skip_smudge {
        submodules.pull_lfs(context, writer);
    }
    Ok(())
}

struct Submodules<'a> {
    settings: &'a JobSettings,
    recursive: bool,
    /// This job's settings, with the credentials.
    external: String,
}

impl Submodules<'_> {
    fn announce(&self, writer: &mut dyn Writer) {
        let recursively = if self.recursive { " recursively" } else { "" };
        let depth = match self.settings.submodule_depth {
            0 => String::new(),
            depth => format!(" with git depth set to {depth}"),
        };
        writer.say(Style::Notice, &format!("Updating/initializing submodules{recursively}{depth}..."));
    }

    fn recursive_flag(&self) -> Option<&'static str> {
        self.recursive.then_some("--recursive")
    }

    fn with_settings(&self) -> Command {
        Command::new("git").arg("-c").arg(format!("include.path={}", self.external))
    }

    /// A command in each submodule.
    fn each(&self, command: impl IntoIterator<Item = String>) -> Command {
        Command::new("git").args(["submodule", "foreach"]).args(self.recursive_flag()).args(command)
    }

    fn clean(&self) -> Command {
        let default = vec!["-ffdx".to_owned()];
        let flags = if self.settings.git_clean_flags.is_empty() { &default } else { &self.settings.git_clean_flags };
        self.each(["git".to_owned(), "clean".to_owned()].into_iter().chain(flags.iter().cloned()))
    }

    fn reset(&self) -> Command {
        self.each(["git", "reset", "--hard"].map(str::to_owned))
    }

    fn paths(&self) -> Vec<String> {
        let paths = &self.settings.submodule_paths;
        if paths.is_empty() {
            Vec::new()
        } else {
            std::iter::once("--".to_owned()).chain(paths.iter().cloned()).collect()
        }
    }

    fn sync(&self) -> Command {
        Command::new("git").args(["submodule", "sync"]).args(self.recursive_flag()).args(self.paths())
    }

    fn update_command(&self) -> Command {
        let command = self.with_settings().args(["submodule", "update", "--init"]).args(self.recursive_flag());
        let command = match self.settings.submodule_depth {
            0 => command,
            depth => command.arg("--depth").arg(depth.to_string()),
        };
        command.args(self.settings.submodule_update_flags.iter().cloned()).args(self.paths())
    }

    fn update(&self, writer: &mut dyn Writer) {
        writer.run(&Command::new("git").args(["submodule", "init"]));
        writer.run(&self.sync());
        writer.run(&self.clean());
        writer.run(&self.reset());
        writer.begin_if(&Test::Runs(&self.update_command()));
        writer.say(Style::Notice, "Updated submodules");
        writer.run(&self.sync());
        writer.otherwise();
        // A submodule that moved or changed its history is fetched anew.
        writer.say(Style::Warning, "Updating submodules failed. Retrying...");
        if self.settings.submodule_update_flags.iter().any(|flag| flag == "--remote") {
            let fetch = ["git", "fetch", "origin", "+refs/heads/*:refs/remotes/origin/*"].map(str::to_owned);
            writer.run(&self.each(fetch));
        }
        writer.run(&self.sync());
        writer.run(&self.update_command());
        writer.run(&self.reset());
        writer.end_if();
        writer.run(&self.clean());
    }

    /// The user's own git commands in submodules find the credentials too.
    fn configure(&self, writer: &mut dyn Writer) {
        writer.say(Style::Notice, "Configuring submodules to use parent git credentials...");
        let set = ["git", "config", "--replace-all", "include.path", self.external.as_str()].map(str::to_owned);
        writer.run(&Command::new("git").args(["submodule", "foreach", "--recursive"]).args(set));
    }

    fn pull_lfs(&self, context: &ScriptContext, writer: &mut dyn Writer) {
        writer.begin_if(&Test::RunsQuietly(&Command::new("git").args(["lfs", "version"])));
        writer.say(Style::Notice, "Pulling LFS files...");
        writer.run(&self.each(self.with_settings().args(["lfs", "pull"]).words().iter().cloned()));
        lfs::otherwise_refuse(context, writer, &lfs::is_wanted_by_submodule(self.recursive_flag()));
        writer.end_if();
    }
}
