//! Changes to the file that keep its comments, its order and its spelling: runners that come and go, new tokens.
//!
//! This works on the text alone. What the keys mean, and the environment in them, is not looked at.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;
use toml_edit::{ArrayOfTables, Datetime, DocumentMut, Item, Table, Value};

use crate::config::diagnostics::Source;
use crate::config::resolved::TlsFiles;
use crate::config::save::{self, SaveError};
use crate::secret::Secret;

/// What a file begins with when the first runner is added.
const NEW_FILE: &str =
    "concurrent = 1\ncheck_interval = 0\nshutdown_timeout = 0\n\n[session_server]\n  session_timeout = 1800\n";

/// Authority, certificate, its key.
const TLS_KEYS: [&str; 3] = ["tls-ca-file", "tls-cert-file", "tls-key-file"];

/// Where jobs in containers keep their caches.
const CACHE_VOLUME: &str = "/cache";

/// A config file that is being changed.
#[derive(Clone, Debug)]
pub struct Document {
    document: DocumentMut,
}

/// What names a `[[runners]]` entry, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place among the runners, from 0.
    pub index: usize,
    pub name: String,
    pub url: String,
    pub token: Secret,
    /// 0 where the file has none.
    pub id: i64,
    pub executor: String,
    pub tls: TlsFiles,
}

/// A runner to be added.
#[derive(Clone, Debug)]
pub struct NewRunner {
    pub name: String,
    pub url: String,
    pub id: i64,
    pub token: Secret,
    pub token_obtained_at: SystemTime,
    /// `None`: never.
    pub token_expires_at: Option<SystemTime>,
    pub executor: String,
    /// Default image of a docker executor.
    pub docker_image: Option<String>,
    pub tls: TlsFiles,
    /// Further keys; a template's values give way to them.
    pub settings: Vec<Setting>,
}

/// A key of a runner with its value.
#[derive(Clone, PartialEq)]
pub struct Setting {
    /// Below `[[runners]]`, with dots: `cache.s3.BucketName`.
    pub path: &'static str,
    pub value: Given,
}

/// Values may be secret; only the key shows.
impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.path)
    }
}

/// A value for the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    Text(String),
    Integer(i64),
    Number(f64),
    Boolean(bool),
    Texts(Vec<String>),
    Pairs(Vec<(String, String)>),
    Flags(Vec<(String, bool)>),
}

impl From<&Given> for Value {
    fn from(given: &Given) -> Self {
        match given {
            Given::Text(text) => text.into(),
            Given::Integer(number) => (*number).into(),
            Given::Number(number) => (*number).into(),
            Given::Boolean(value) => (*value).into(),
            Given::Texts(texts) => texts.iter().collect(),
            Given::Pairs(pairs) => pairs.iter().map(|(key, value)| (key.as_str(), Self::from(value))).collect(),
            Given::Flags(flags) => flags.iter().map(|(key, value)| (key.as_str(), Self::from(*value))).collect(),
        }
    }
}

impl NewRunner {
    /// What every runner has; the rest is empty.
    pub fn new(url: &str, token: Secret, token_obtained_at: SystemTime) -> Self {
        Self {
            name: String::new(),
            url: url.to_owned(),
            id: 0,
            token,
            token_obtained_at,
            token_expires_at: None,
            executor: String::new(),
            docker_image: None,
            tls: TlsFiles::default(),
            settings: Vec::new(),
        }
    }
}

impl Document {
    /// An empty text is a new file.
    pub fn parse(text: &str) -> Result<Self, EditError> {
        let text = if text.trim().is_empty() { NEW_FILE } else { text };
        let document = text.parse().map_err(|error| syntax(text, &error))?;
        let document = Self { document };
        match document.runners_item() {
            Some(item) if !item.is_array_of_tables() => Err(EditError::Runners),
            Some(_) | None => Ok(document),
        }
    }

    /// The entries in their order.
    pub fn entries(&self) -> Vec<Entry> {
        let tables = self.runners_item().and_then(Item::as_array_of_tables).into_iter().flat_map(ArrayOfTables::iter);
        tables.enumerate().map(|(index, table)| entry(index, table)).collect()
    }

    /// Adds a runner at the end. A template is the text of a file with exactly one `[[runners]]`, whose keys are
    /// taken over where the new runner has none of its own; its token never is.
    pub fn add(&mut self, runner: &NewRunner, template: Option<&str>) -> Result<(), EditError> {
        let mut table = template.map_or_else(|| Ok(Table::new()), template_of)?;
        set(&mut table, "name", runner.name.as_str());
        set(&mut table, "url", runner.url.as_str());
        set(&mut table, "id", runner.id);
        set(&mut table, "token", runner.token.expose());
        set(&mut table, "token_obtained_at", date(Some(runner.token_obtained_at)));
        set(&mut table, "token_expires_at", date(runner.token_expires_at));
        set(&mut table, "executor", runner.executor.as_str());
        let files = [&runner.tls.ca_file, &runner.tls.cert_file, &runner.tls.key_file];
        for (key, file) in TLS_KEYS.into_iter().zip(files) {
            if let Some(file) = file {
                set(&mut table, key, file.to_string_lossy().as_ref());
            }
        }
        for setting in &runner.settings {
            let (sections, key) = setting.path.rsplit_once('.').unwrap_or(("", setting.path));
            if let Some(table) = sections.split('.').filter(|name| !name.is_empty()).try_fold(&mut table, section) {
                set(table, key, &setting.value);
            }
        }
        if let Some(image) = &runner.docker_image
            && let Some(docker) = section(&mut table, "docker")
        {
            add_docker(docker, image);
        }
        let name = self.runners_key().unwrap_or_else(|| "runners".to_owned());
        let runners = self.document.entry(&name).or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
        let runners = runners.as_array_of_tables_mut().ok_or(EditError::Runners)?;
        if !table.decor().prefix().is_some_and(|prefix| prefix.as_str().is_some_and(|text| text.contains('\n'))) {
            table.decor_mut().set_prefix("\n");
        }
        // A table of another text has a position there; without one it comes last here.
        clear_positions(&mut table);
        runners.push(table);
        Ok(())
    }

    /// Removes the entries that the condition holds for, with their sections; gives them back.
    pub fn remove(&mut self, mut which: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let removed: Vec<Entry> = self.entries().into_iter().filter(|entry| which(entry)).collect();
        let Some(name) = self.runners_key() else { return removed };
        if let Some(runners) = self.document.get_mut(&name).and_then(Item::as_array_of_tables_mut) {
            for entry in removed.iter().rev() {
                runners.remove(entry.index);
            }
        }
        removed
    }

    /// Gives an entry a new token with its dates; false where there is no such entry.
    pub fn set_token(
        &mut self,
        index: usize,
        token: &Secret,
        obtained_at: SystemTime,
        expires_at: Option<SystemTime>,
    ) -> bool {
        let Some(name) = self.runners_key() else { return false };
        let runners = self.document.get_mut(&name).and_then(Item::as_array_of_tables_mut);
        let Some(table) = runners.and_then(|runners| runners.get_mut(index)) else { return false };
        set(table, "token", token.expose());
        set(table, "token_obtained_at", date(Some(obtained_at)));
        set(table, "token_expires_at", date(expires_at));
        true
    }

    /// Writes the file whole or not at all, for its owner's eyes only.
    pub fn save(&self, path: &Path) -> Result<(), SaveError> {
        save::write(path, &self.to_string())
    }

    fn runners_key(&self) -> Option<String> {
        find_key(self.document.as_table(), "runners")
    }

    fn runners_item(&self) -> Option<&Item> {
        self.document.get(&self.runners_key()?)
    }
}

impl std::fmt::Display for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.document.fmt(f)
    }
}

/// The spelling of a key in a table: exact, else in any case.
fn find_key(table: &Table, key: &str) -> Option<String> {
    if table.contains_key(key) {
        return Some(key.to_owned());
    }
    let lower = key.to_lowercase();
    table.iter().map(|(name, _)| name).find(|name| name.to_lowercase() == lower).map(str::to_owned)
}

/// A section of this name, a new one where there is none; nothing where something else has the name.
fn section<'t>(table: &'t mut Table, name: &str) -> Option<&'t mut Table> {
    let name = find_key(table, name).unwrap_or_else(|| name.to_owned());
    let item = table.entry(&name).or_insert_with(|| Item::Table(Table::new()));
    if item.is_inline_table() {
        *item = std::mem::take(item).into_table().map_or_else(|item| item, Item::Table);
    }
    item.as_table_mut()
}

fn entry(index: usize, table: &Table) -> Entry {
    let item = |key: &str| find_key(table, key).and_then(|name| table.get(&name));
    let text = |key: &str| item(key).and_then(Item::as_str).unwrap_or_default().to_owned();
    let file = |key: &str| item(key).and_then(Item::as_str).filter(|path| !path.is_empty()).map(PathBuf::from);
    Entry {
        index,
        name: text("name"),
        url: text("url"),
        token: Secret::new(text("token")),
        id: item("id").and_then(Item::as_integer).unwrap_or_default(),
        executor: text("executor"),
        tls: TlsFiles { ca_file: file(TLS_KEYS[0]), cert_file: file(TLS_KEYS[1]), key_file: file(TLS_KEYS[2]) },
    }
}

/// The image, and the cache volume that the reference gives every new runner.
fn add_docker(section: &mut Table, image: &str) {
    set(section, "image", image);
    let is_on = |key: &str| find_key(section, key).and_then(|key| section.get(&key)?.as_bool()).unwrap_or_default();
    if is_on("disable_cache") {
        return;
    }
    match find_key(section, "volumes").and_then(|key| section.get_mut(&key)).and_then(Item::as_array_mut) {
        Some(volumes) if volumes.iter().any(|volume| volume.as_str() == Some(CACHE_VOLUME)) => {}
        Some(volumes) => volumes.push(CACHE_VOLUME),
        None => set(section, "volumes", Value::from_iter([CACHE_VOLUME])),
    }
}

/// Sets a value in its place, with what stands around it; a new key is indented as the first one.
fn set(table: &mut Table, key: &str, new: impl Into<Value>) {
    let mut new: Value = new.into();
    let known = find_key(table, key);
    if let Some(old) = known.and_then(|name| table.get_mut(&name)) {
        if let Some(old) = old.as_value() {
            *new.decor_mut() = old.decor().clone();
        }
        *old = Item::Value(new);
        return;
    }
    let indent = indent(table);
    table.insert(key, Item::Value(new));
    if let Some(mut key) = table.key_mut(key) {
        key.leaf_decor_mut().set_prefix(indent);
    }
}

/// The blanks before the first key.
fn indent(table: &Table) -> String {
    let first = table.iter().next().and_then(|(name, _)| table.key(name));
    let before = first.and_then(|key| key.leaf_decor().prefix()).and_then(|prefix| prefix.as_str()).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    line.chars().take_while(|letter| letter.is_whitespace()).collect()
}

/// To the second, as the reference writes it; its zero date for never.
fn date(moment: Option<SystemTime>) -> Value {
    let text = match moment.map(Timestamp::try_from) {
        Some(Ok(moment)) => moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Some(Err(_)) | None => "0001-01-01T00:00:00Z".to_owned(),
    };
    text.parse::<Datetime>().map_or_else(|_| Value::from(text), Value::from)
}

/// The one runner of a template, without its token.
fn template_of(text: &str) -> Result<Table, EditError> {
    let document = Document::parse(text)?;
    let runners = document.runners_item().and_then(Item::as_array_of_tables);
    let tables: Vec<&Table> = runners.into_iter().flat_map(ArrayOfTables::iter).collect();
    let &[table] = tables.as_slice() else { return Err(EditError::Template { found: tables.len() }) };
    let mut table = table.clone();
    if let Some(token) = find_key(&table, "token") {
        table.remove(&token);
    }
    Ok(table)
}

fn clear_positions(table: &mut Table) {
    table.set_position(None);
    for (_, item) in table.iter_mut() {
        match item {
            Item::Table(section) => clear_positions(section),
            Item::ArrayOfTables(sections) => sections.iter_mut().for_each(clear_positions),
            Item::None | Item::Value(_) => {}
        }
    }
}

fn syntax(text: &str, error: &toml_edit::TomlError) -> EditError {
    let offset = error.span().map_or(0, |span| span.start);
    let (line, column) = Source::new("", text).position(offset);
    EditError::Syntax { line, column, message: error.message().to_owned() }
}

/// Why a file cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// Without the line itself, which may hold a token.
    #[error("invalid TOML in line {line}, column {column}: {message}; `flotilla check` shows the line")]
    Syntax { line: usize, column: usize, message: String },
    #[error("runners are not written as [[runners]]")]
    Runners,
    #[error("a template has exactly one [[runners]], not {found}")]
    Template { found: usize },
}

#[cfg(test)]
mod tests;
