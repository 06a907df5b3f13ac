//! Names of caches: what a key of the job means as a folder here and as an object elsewhere.

use sha2::{Digest as _, Sha256};

use crate::job::payload::CacheEntry;
use crate::job::resolved::ResolvedJob;

/// The suffix of keys that only protected refs may use.
const PROTECTED: &str = "-protected";

/// A key that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheKey {
    /// For people.
    pub shown: String,
    /// The folder under the project's cache directory and, after its prefix, the object's name.
    pub object: String,
}

/// A key and what the user should know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyResult {
    /// `None`: nothing usable is left of the key.
    pub key: Option<CacheKey>,
    pub warning: Option<String>,
}

impl CacheKey {
    /// The key `raw`, expanded, of a job. Where `FF_HASH_CACHE_KEYS` is on its hash is used.
    pub fn of(raw: &str, hashed: bool) -> KeyResult {
        if hashed {
            let object = hex::encode(Sha256::digest(raw));
            return KeyResult { key: Some(Self { shown: raw.to_owned(), object }), warning: None };
        }
        let clean = sanitize(raw);
        if clean.is_empty() {
            return KeyResult { key: None, warning: Some(format!("cache key {raw:?} could not be sanitized")) };
        }
        let warning = (clean != raw).then(|| format!("cache key {raw:?} sanitized to {clean:?}"));
        KeyResult { key: Some(Self { shown: clean.clone(), object: clean }), warning }
    }
}

/// The key of a cache entry, or the default one, as a usable key.
pub fn primary(entry: &CacheEntry, job: &ResolvedJob) -> KeyResult {
    let mut raw = job.variables.expand(&entry.key);
    if raw.is_empty() {
        raw = format!("{}/{}", job.job.name, job.job.git.ref_name);
    }
    CacheKey::of(&raw, job.flags.is_on("FF_HASH_CACHE_KEYS"))
}

/// The keys to try after the primary one, in order: the entry's own, then `CACHE_FALLBACK_KEY`.
pub fn fallbacks(entry: &CacheEntry, job: &ResolvedJob) -> Vec<KeyResult> {
    let hashed = job.flags.is_on("FF_HASH_CACHE_KEYS");
    let mut results: Vec<KeyResult> = entry
        .fallback_keys
        .iter()
        .map(|key| job.variables.expand(key))
        .filter(|key| !key.is_empty())
        .map(|key| CacheKey::of(&key, hashed))
        .collect();
    let general = &job.settings.cache_fallback_key;
    if !general.is_empty() {
        results.push(refuse_protected(CacheKey::of(general, hashed)));
    }
    results
}

/// Jobs of any ref may set `CACHE_FALLBACK_KEY`, so it may not name a protected ref's cache. What counts is the key
/// that is used, not what it was made of.
fn refuse_protected(result: KeyResult) -> KeyResult {
    match result.key {
        Some(key) if key.shown.trim_end_matches(['.', ' ']).ends_with(PROTECTED) => {
            let warning = format!("CACHE_FALLBACK_KEY {:?} not allowed to end in {PROTECTED:?}", key.shown);
            KeyResult { key: None, warning: Some(warning) }
        }
        Some(_) | None => result,
    }
}

/// Every usable key of a job's caches, for those who sign their URLs.
pub fn all(job: &ResolvedJob) -> Vec<CacheKey> {
    let entries = job.job.caches.iter().filter(|entry| entry.has_files());
    let mut keys: Vec<CacheKey> = Vec::new();
    for result in entries.flat_map(|entry| std::iter::once(primary(entry, job)).chain(fallbacks(entry, job))) {
        if let Some(key) = result.key
            && !keys.contains(&key)
        {
            keys.push(key);
        }
    }
    keys
}

/// `raw` as a relative path that stays below its root: separators and dots that were encoded count as
/// what they are, and blanks at the end of the path are cut.
fn sanitize(raw: &str) -> String {
    let decoded = ["%2f", "%2F", "\\"].iter().fold(raw.to_owned(), |text, from| text.replace(from, "/"));
    let decoded = decoded.replace("%2e", ".").replace("%2E", ".");
    let mut parts: Vec<&str> = Vec::new();
    for part in decoded.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    while let Some(last) = parts.pop() {
        let trimmed = last.trim_end();
        // What only a blank kept apart from `.` and `..` must not become them.
        if !trimmed.is_empty() && trimmed != "." && trimmed != ".." {
            parts.push(trimmed);
            break;
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_cannot_leave_its_root() {
        for (raw, clean) in [
            ("key", "key"),
            ("foo\\bar\\..", "foo"),
            ("../foo/bar", "foo/bar"),
            (" foo / bar ", " foo / bar"),
            ("...", "..."),
            ("a%2fb%2E%2E", "a/b.."),
            ("a/%2e%2e/%2e%2e/b", "b"),
            ("/a//b/./c/", "a/b/c"),
            ("a/ / ", "a"),
            ("a/.. ", "a"),
        ] {
            let result = CacheKey::of(raw, false);
            assert_eq!(result.key.map(|key| key.object).as_deref(), Some(clean), "{raw}");
            let warning = (raw != clean).then(|| format!("cache key {raw:?} sanitized to {clean:?}"));
            assert_eq!(result.warning, warning);
        }
    }

    #[test]
    fn a_key_of_which_nothing_is_left_cannot_be_used() {
        for raw in ["..", ".", "/", " ", "a/..", "%2e%2e"] {
            let result = CacheKey::of(raw, false);
            assert_eq!(result.key, None, "{raw}");
            assert_eq!(result.warning, Some(format!("cache key {raw:?} could not be sanitized")));
        }
    }

    #[test]
    fn no_spelling_of_a_protected_refs_key_is_taken_as_the_general_fallback() {
        for raw in [
            "main-protected",
            "main-protected. ",
            "main-protected/",
            "main-protected/.",
            "main-protected%2f",
            "main-protected/x/..",
            "main-protected\t",
            "x/../main-protected\\",
        ] {
            let refused = refuse_protected(CacheKey::of(raw, false));
            assert_eq!(refused.key, None, "{raw:?}");
            assert!(
                refused.warning.is_some_and(|text| text.contains("not allowed to end in \"-protected\"")),
                "{raw:?}"
            );
        }
        for raw in ["main-non_protected", "main-protected/x", "-protected-x"] {
            let taken = CacheKey::of(raw, false);
            assert_eq!(refuse_protected(taken.clone()), taken, "{raw:?}");
        }
    }

    #[test]
    fn a_hashed_general_fallback_is_refused_by_its_name() {
        assert_eq!(refuse_protected(CacheKey::of("main-protected", true)).key, None);
        let other = CacheKey::of("main-protected/", true);
        assert_eq!(refuse_protected(other.clone()), other, "the hash of another name is another object");
    }

    #[test]
    fn a_hashed_key_keeps_its_name_for_people() {
        let key = CacheKey::of("../a", true).key.expect("a key");
        assert_eq!(key.shown, "../a");
        assert_eq!(key.object.len(), 64);
        assert!(key.object.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()));
    }
}
