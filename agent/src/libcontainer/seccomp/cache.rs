//! Compiled filters by content: nodes use a handful of profiles for thousands of containers.

use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::LinuxSeccomp;

use super::{CompileError, Filter, compile};

/// More different profiles than this on one node are compiled again when they come back.
const CAPACITY: usize = 32;

/// The last used profiles with their filters.
#[derive(Debug, Default)]
pub struct FilterCache {
    /// Most recently used first. Comparing two profiles takes microseconds, and hashing one no less.
    entries: Mutex<Vec<(Arc<LinuxSeccomp>, Arc<Filter>)>>,
}

impl FilterCache {
    /// The filter of a profile, compiled at its first use.
    ///
    /// # Errors
    /// `CompileError`, each time again: a failure is not kept.
    pub fn get(&self, profile: &LinuxSeccomp) -> Result<Arc<Filter>, CompileError> {
        let lock = || self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filter) = find(&mut lock(), profile) {
            return Ok(filter);
        }
        let filter = Arc::new(compile(profile)?);
        let mut entries = lock();
        if let Some(filter) = find(&mut entries, profile) {
            return Ok(filter);
        }
        entries.insert(0, (Arc::new(profile.clone()), Arc::clone(&filter)));
        entries.truncate(CAPACITY);
        Ok(filter)
    }
}

fn find(entries: &mut [(Arc<LinuxSeccomp>, Arc<Filter>)], profile: &LinuxSeccomp) -> Option<Arc<Filter>> {
    let index = entries.iter().position(|(known, _)| **known == *profile)?;
    entries[..=index].rotate_right(1);
    Some(Arc::clone(&entries[0].1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_is_compiled_once_and_the_cache_is_bounded() {
        let cache = FilterCache::default();
        let profile = |errno| {
            let mut profile = LinuxSeccomp::default();
            profile.set_default_errno_ret(Some(errno));
            profile
        };
        let first = cache.get(&profile(1)).unwrap();
        assert!(Arc::ptr_eq(&first, &cache.get(&profile(1)).unwrap()));
        for errno in 2..100 {
            cache.get(&profile(errno)).unwrap();
            cache.get(&profile(1)).unwrap();
        }
        assert_eq!(cache.entries.lock().unwrap().len(), CAPACITY);
        assert!(Arc::ptr_eq(&first, &cache.get(&profile(1)).unwrap()), "what is in use stays");
    }
}
