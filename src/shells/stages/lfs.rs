//! A checkout that wants Git LFS where git has none.
//!
//! The reference's helper image has git-lfs, so there the files come. In an image without, git leaves their
//! pointers and says nothing: the job would go on with wrong files. On an instance, whose git is the reference's
//! too, pointers stay as they do there.

use super::{Command, ScriptContext, Style, Test, Writer};

/// What to do about it.
const REFUSAL: &str = "Files of this checkout are kept in Git LFS, but git-lfs is missing where the sources are \
                       fetched. Use an image with git-lfs, set helper_image for this runner, or set \
                       GIT_LFS_SKIP_SMUDGE to 1 to go on with their pointers.";

/// Attributes of any folder that send files through LFS.
const GREP: [&str; 8] =
    ["grep", "--cached", "-q", "-e", "filter=lfs", "--", ".gitattributes", ":(glob)**/.gitattributes"];

/// Whether the checkout has files of LFS.
pub(super) fn is_wanted() -> Command {
    Command::new("git").args(GREP)
}

/// Whether one of its submodules has; their git would stop at the first that has none.
pub(super) fn is_wanted_by_submodule(recursive: Option<&str>) -> Command {
    let none = format!("! git {} ':(glob)**/.gitattributes'", GREP[..7].join(" "));
    let each = Command::new("git").args(["submodule", "--quiet", "foreach"]).args(recursive);
    Command::new("sh").args(["-c", "! \"$@\"", "sh"]).args(each.arg(none).words().iter().cloned())
}

/// The other branch of a test for git-lfs: the stage fails if files of LFS are wanted.
pub(super) fn otherwise_refuse(context: &ScriptContext, writer: &mut dyn Writer, is_wanted: &Command) {
    if context.shared_environment {
        return;
    }
    writer.otherwise();
    writer.begin_if(&Test::RunsQuietly(is_wanted));
    writer.say(Style::Error, REFUSAL);
    writer.run(&Command::new("false"));
    writer.end_if();
}
