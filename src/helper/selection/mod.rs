//! Which files an archive gets: paths and patterns of the project, what Git does not track, less what is
//! excluded; and the messages about it that users know.
//!
//! Names are relative to the project's folder. A pattern's matches are taken with all that lies below
//! them, excludes are asked about each entry, and a folder that is excluded by name keeps its contents.
//! What is counted is visits, so an entry that is reached through two matches counts twice, as it does at
//! the reference; it is looked at once all the same.
//!
//! A symlink is taken as a link and never followed, so no loop of links has an effect; but for the part of a path
//! that is written out before the first pattern character, in each alternative of braces for itself. That may lead
//! out of the project, as Bazel's `bazel-testlogs` does: a job can read there anyway, and only the letters of a
//! path say whether it is the project's. As the reference has it (19.4: doublestar 4.10 with `WithNoFollow`).
//! Root does not follow links out of the project ([`Reach`]): it would read what the job's user cannot, and the
//! reference's own root, in its helper container, does not see the files of the job's image at all.

mod untracked;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::archive::{Beneath, Resolver};
use super::cli::FileArgs;
use super::console::{Console, Level};
use super::environment::Environment;
use super::expand::expand;
use super::glob::{Pattern, Progress, is_pattern};

/// How far links that are written out may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Wherever this process may read, as the job could itself.
    Anywhere,
    /// Not out of the project.
    Project,
}

impl Reach {
    /// The reach of this process: root runs the stages of jobs that belong to other users.
    fn of_process() -> Self {
        if rustix::process::geteuid().is_root() { Self::Project } else { Self::Anywhere }
    }
}

/// What was selected, in the order of names.
#[derive(Debug)]
pub(super) struct Selection {
    root: PathBuf,
    reach: Reach,
    entries: BTreeMap<OsString, Entry>,
}

/// One file, folder or link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub kind: Kind,
    /// Type and permissions as the file system has them.
    pub mode: u32,
    pub size: u64,
    pub modified: SystemTime,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    Symlink,
    /// A pipe, socket or device: it is listed, and no archive takes it.
    Special,
}

impl Selection {
    /// The project's folder, where all names begin.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn reach(&self) -> Reach {
        self.reach
    }

    /// Names, relative to the root and without a trailing slash, with what they are.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&OsStr, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_os_str(), entry))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Entry {
    /// What a link itself is, not what it leads to.
    fn new(metadata: &fs::Metadata) -> Self {
        let kind = match metadata.file_type() {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_dir() => Kind::Folder,
            kind if kind.is_symlink() => Kind::Symlink,
            _ => Kind::Special,
        };
        let modified =
            metadata.modified().unwrap_or_else(|_| UNIX_EPOCH + Duration::from_secs(metadata.mtime().unsigned_abs()));
        Self {
            kind,
            mode: metadata.permissions().mode(),
            size: metadata.len(),
            modified,
            uid: metadata.uid(),
            gid: metadata.gid(),
        }
    }
}

/// Selects by a command's flags, in the working folder of its environment.
pub(super) fn select(files: &FileArgs, environment: &Environment, console: &Console) -> Selection {
    select_within(files, environment, console, Reach::of_process())
}

fn select_within(files: &FileArgs, environment: &Environment, console: &Console, reach: Reach) -> Selection {
    let root = environment.folder().to_owned();
    // A working folder that cannot be resolved has no files either.
    let real_root = root.canonicalize().unwrap_or_else(|_| root.clone());
    let mut selector =
        Selector { root, real_root, reach, environment, console, excludes: Vec::new(), entries: BTreeMap::new() };
    for text in &files.exclude {
        selector.add_exclude(text);
    }
    for text in &files.paths {
        selector.add_path(text);
    }
    if files.untracked.unwrap_or(false) {
        selector.add_untracked();
    }
    for exclude in selector.excludes.iter().filter(|exclude| exclude.count > 0) {
        console.info(&format!("{}: excluded {} files", exclude.text, exclude.count));
    }
    if files.verbose.unwrap_or(false) {
        for name in selector.entries.keys() {
            console.info(&name.to_string_lossy());
        }
    }
    selector.drop_links_with_contents();
    Selection { root: selector.root, reach, entries: selector.entries }
}

/// Replaces variables; a text that cannot be expanded is said so and taken as it is.
pub(super) fn expand_text(text: &str, environment: &Environment, console: &Console) -> String {
    match expand(text, &|name| environment.raw(name)) {
        Ok(expanded) => expanded,
        Err(error) => {
            console.line(Level::Warning, &format!("invalid path \"{text}\""), &[("error", &error.to_string())]);
            text.to_owned()
        }
    }
}

struct Selector<'a> {
    root: PathBuf,
    real_root: PathBuf,
    reach: Reach,
    environment: &'a Environment,
    console: &'a Console,
    excludes: Vec<Exclude>,
    entries: BTreeMap<OsString, Entry>,
}

struct Exclude {
    text: String,
    pattern: Pattern,
    count: u64,
}

/// A folder that is still to be read.
struct Pending {
    /// Relative; empty is the root.
    name: OsString,
    /// How far the pattern has come with `name` and its slash.
    progress: Option<Progress>,
    /// How many matches this lies in.
    matches: u64,
}

impl Selector<'_> {
    fn add_exclude(&mut self, text: &str) {
        let text = expand_text(text, self.environment, self.console);
        if text.is_empty() {
            return;
        }
        let Some(relative) = self.relative(&text) else {
            self.console.warning(&format!("isExcluded: artifact path is not a subpath of project directory: {text}"));
            return;
        };
        match Pattern::new(&relative) {
            Ok(pattern) => self.excludes.push(Exclude { text, pattern, count: 0 }),
            Err(error) => self.console.warning(&format!("{text}: {error}")),
        }
    }

    fn add_path(&mut self, text: &str) {
        let text = expand_text(text, self.environment, self.console);
        if text.is_empty() {
            self.console.warning("No matching files. Path is empty.");
            return;
        }
        let Some(relative) = self.relative(&text) else {
            self.console.warning(&format!("processPath: artifact path is not a subpath of project directory: {text}"));
            return;
        };
        let found = if is_pattern(&relative) {
            match Pattern::by_folder(&relative) {
                Ok(patterns) => patterns.iter().map(|(folder, pattern)| self.add_matches(pattern, folder)).sum(),
                Err(error) => {
                    self.console.warning(&format!("{text}: {error}"));
                    return;
                }
            }
        } else {
            self.add_name(&relative)
        };
        if found == 0 {
            let root = self.root.display();
            let hint = format!("Ensure that the artifact path is relative to the working directory ({root})");
            self.console.warning(&format!("{text}: no matching files. {hint}"));
        } else {
            self.console.info(&format!("{text}: found {found} matching artifact files and directories"));
        }
    }

    /// A text's path from the root, cleaned of `.`, `..` and doubled slashes by its letters alone; nothing
    /// where it leads out.
    fn relative(&self, text: &str) -> Option<String> {
        let mut segments: Vec<&str> = Vec::new();
        for segment in text.split('/').filter(|segment| !matches!(*segment, "" | ".")) {
            match (segment, segments.last()) {
                ("..", Some(last)) if *last != ".." => drop(segments.pop()),
                _ => segments.push(segment),
            }
        }
        if !text.starts_with('/') {
            return (segments.first() != Some(&"..")).then(|| segments.join("/"));
        }
        // Above `/` there is nothing.
        let absolute: Vec<&str> = segments.into_iter().skip_while(|segment| *segment == "..").collect();
        [&self.root, &self.real_root].into_iter().find_map(|root| {
            let root: Vec<&str> = root.to_str()?.split('/').filter(|segment| !segment.is_empty()).collect();
            absolute.strip_prefix(root.as_slice()).map(|rest| rest.join("/"))
        })
    }

    /// Adds a path that is no pattern, with what lies below it.
    fn add_name(&mut self, name: &str) -> u64 {
        let path = self.root.join(name);
        if self.leads_out(name.rsplit_once('/').map_or("", |(folder, _)| folder)) {
            return 0;
        }
        // A link that leads nowhere is no match when it is named.
        if fs::metadata(&path).is_err() {
            return 0;
        }
        match fs::symlink_metadata(&path) {
            Ok(metadata) => {
                let mut found = self.record(OsStr::new(name), &metadata, 1);
                if metadata.is_dir() {
                    found += self.walk(Pending { name: name.into(), progress: None, matches: 1 }, None);
                }
                found
            }
            Err(_) => 0,
        }
    }

    /// Whether a folder lies behind a link that is not followed, which is logged.
    fn leads_out(&self, folder: &str) -> bool {
        if self.reach == Reach::Anywhere {
            return false;
        }
        let found =
            Beneath::open(&self.root, Resolver::Kernel).and_then(|mut root| Ok(root.folder(Path::new(folder))?));
        let leads_out = found.is_err_and(|error| error.kind() == io::ErrorKind::CrossesDevices);
        if leads_out {
            self.console.warning(&format!("{folder}: leads out of the project through a link, left out"));
        }
        leads_out
    }

    /// Adds what matches in `folder`, with what lies below the matches.
    fn add_matches(&mut self, pattern: &Pattern, folder: &str) -> u64 {
        if self.leads_out(folder) {
            return 0;
        }
        let mut progress = pattern.advance(&pattern.start(), folder);
        let mut found = 0;
        let mut matches = 0;
        // `a/**` is `a` too; but where `a` is a link, its contents go under its name, so the link does not.
        // The project's own folder is no match: `*` would mean everything twice.
        if !folder.is_empty()
            && pattern.is_match(&progress)
            && let Ok(metadata) = fs::symlink_metadata(self.root.join(folder))
            && metadata.is_dir()
        {
            matches = 1;
            found += self.record(OsStr::new(folder), &metadata, matches);
        }
        if !folder.is_empty() {
            progress = pattern.advance(&progress, "/");
        }
        found + self.walk(Pending { name: folder.into(), progress: Some(progress), matches }, Some(pattern))
    }

    /// Reads folders from `first` on; returns how many visits were not excluded.
    fn walk(&mut self, first: Pending, pattern: Option<&Pattern>) -> u64 {
        let mut found = 0;
        let mut pending = vec![first];
        while let Some(folder) = pending.pop() {
            let path = self.root.join(&folder.name);
            let children = match fs::read_dir(&path) {
                Ok(children) => children,
                Err(error) => {
                    if folder.matches > 0 {
                        self.console.warning(&format!("Walking {}: {error}", folder.name.display()));
                    }
                    continue;
                }
            };
            for child in children.flatten() {
                found += self.visit(&folder, &child, pattern, &mut pending);
            }
        }
        found
    }

    fn visit(
        &mut self,
        folder: &Pending,
        child: &fs::DirEntry,
        pattern: Option<&Pattern>,
        pending: &mut Vec<Pending>,
    ) -> u64 {
        let mut name = folder.name.clone();
        if !name.is_empty() {
            name.push("/");
        }
        name.push(child.file_name());
        let mut progress = None;
        let mut matches = folder.matches;
        if let (Some(pattern), Some(before)) = (pattern, &folder.progress) {
            let reached = pattern.advance(before, &child.file_name().to_string_lossy());
            matches += u64::from(pattern.is_match(&reached));
            progress = Some(pattern.advance(&reached, "/"));
        }
        let below = matches > 0 || progress.as_ref().is_some_and(Progress::can_match);
        if below && child.file_type().is_ok_and(|kind| kind.is_dir()) {
            pending.push(Pending { name: name.clone(), progress, matches });
        }
        if matches == 0 {
            return 0;
        }
        match child.metadata() {
            Ok(metadata) => self.record(&name, &metadata, matches),
            Err(error) => self.lost(&name, &error),
        }
    }

    /// Takes an entry that was met `visits` times, unless it is excluded.
    fn record(&mut self, name: &OsStr, metadata: &fs::Metadata, visits: u64) -> u64 {
        let text = name.to_string_lossy();
        if let Some(exclude) = self.excludes.iter_mut().find(|exclude| exclude.pattern.matches(&text)) {
            exclude.count += visits;
            return 0;
        }
        // The project's folder itself is there before any archive is extracted.
        if !name.is_empty() {
            self.entries.insert(name.to_owned(), Entry::new(metadata));
        }
        visits
    }

    /// An entry that went away in between is as good as never seen.
    fn lost(&self, name: &OsStr, error: &io::Error) -> u64 {
        if error.kind() != io::ErrorKind::NotFound {
            self.console.warning(&format!("{}: {error}", name.display()));
        }
        0
    }

    /// Where a link was selected and also something through it, the contents stand for it: an archive with
    /// both could not be extracted.
    fn drop_links_with_contents(&mut self) {
        let has_contents = |name: &OsStr| {
            let mut folder = name.to_owned();
            folder.push("/");
            let next = self.entries.range::<OsStr, _>((Bound::Included(folder.as_os_str()), Bound::Unbounded)).next();
            next.is_some_and(|(next, _)| next.as_encoded_bytes().starts_with(folder.as_encoded_bytes()))
        };
        let links = self.entries.iter().filter(|(name, entry)| entry.kind == Kind::Symlink && has_contents(name));
        for name in links.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.entries.remove(&name);
        }
    }

    fn add_untracked(&mut self) {
        let names = match untracked::list(&self.root) {
            Ok(names) => names,
            Err(error) => {
                self.console.warning(&format!("untracked: {error}"));
                return;
            }
        };
        let mut found = 0;
        for name in &names {
            found += match fs::symlink_metadata(self.root.join(name)) {
                Ok(metadata) => self.record(name, &metadata, 1),
                Err(error) => self.lost(name, &error),
            };
        }
        if found == 0 {
            self.console.warning("untracked: no files");
        } else {
            self.console.info(&format!("untracked: found {found} files"));
        }
    }
}

#[cfg(test)]
mod tests;
