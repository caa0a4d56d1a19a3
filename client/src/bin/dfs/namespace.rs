//! Walking and matching the namespace.

use std::collections::VecDeque;

use bytes::Bytes;
use dfs_client::{DfsClient, DfsError, ErrorKind, FileStatus, LIST_PAGE_ENTRIES};

use crate::glob::{self, Component};
use crate::path::{RemoteArg, RemotePath};
use crate::session::Session;

/// A node and how the user calls it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it is.
    pub path: RemotePath,
    /// Its attributes.
    pub status: FileStatus,
}

/// The paths that the arguments stand for. A plain path is answered as it is, without asking the
/// namenode; a pattern without any match is reported. Errors are reported, not returned.
pub async fn paths(session: &Session, args: &[RemoteArg]) -> Vec<RemotePath> {
    let mut found = Vec::with_capacity(args.len());
    for arg in args {
        if !glob::has_meta(arg.as_str()) {
            found.push(session.resolve(arg));
            continue;
        }
        found.extend(nodes_of_pattern(session, arg).await.into_iter().map(|node| node.path));
    }
    found
}

/// Like [`paths`] for one argument, but a pattern without any match is nothing to report.
pub async fn paths_if_any(session: &Session, arg: &RemoteArg) -> Vec<RemotePath> {
    if !glob::has_meta(arg.as_str()) {
        return vec![session.resolve(arg)];
    }
    match find_matches(session, arg).await {
        Ok(found) => found.into_iter().map(|node| node.path).collect(),
        Err(Unmatched::Nothing) => Vec::new(),
        Err(unmatched) => {
            unmatched.report(session, arg);
            Vec::new()
        }
    }
}

/// The nodes that the arguments stand for. What does not exist is reported, not returned.
pub async fn nodes(session: &Session, args: &[RemoteArg]) -> Vec<Node> {
    let mut found = Vec::with_capacity(args.len());
    for arg in args {
        if glob::has_meta(arg.as_str()) {
            found.extend(nodes_of_pattern(session, arg).await);
            continue;
        }
        let path = session.resolve(arg);
        match session.client.stat(&path.absolute).await {
            Ok(status) => found.push(Node { path, status }),
            Err(error) => session.fail(&path, &error),
        }
    }
    found
}

/// Why a pattern stands for nothing.
enum Unmatched {
    /// No name matches.
    Nothing,
    /// It is no pattern.
    Bad(glob::GlobError),
    /// The namenode did not answer the question.
    Failed(DfsError),
}

impl Unmatched {
    fn report(&self, session: &Session, arg: &RemoteArg) {
        match self {
            Self::Nothing => session.fail_about(arg.as_str(), ErrorKind::NotFound.text()),
            Self::Bad(error) => session.fail_about(arg.as_str(), &error.to_string()),
            Self::Failed(error) => session.fail(&session.resolve(arg), error),
        }
    }
}

async fn nodes_of_pattern(session: &Session, arg: &RemoteArg) -> Vec<Node> {
    match find_matches(session, arg).await {
        Ok(found) => found,
        Err(unmatched) => {
            unmatched.report(session, arg);
            Vec::new()
        }
    }
}

/// At least one match of a pattern. A name that holds pattern characters and exists as written is
/// found too, as in a shell.
async fn find_matches(session: &Session, arg: &RemoteArg) -> Result<Vec<Node>, Unmatched> {
    let path = session.resolve(arg);
    let alternatives = glob::parse(&path.absolute).map_err(Unmatched::Bad)?;
    let found = expand(&session.client, arg, alternatives).await.map_err(Unmatched::Failed)?;
    if !found.is_empty() {
        return Ok(found);
    }
    match session.client.stat(&path.absolute).await {
        Ok(status) => Ok(vec![Node { path, status }]),
        Err(error) if is_absent(&error) => Err(Unmatched::Nothing),
        Err(error) => Err(Unmatched::Failed(error)),
    }
}

async fn expand(
    client: &DfsClient,
    arg: &RemoteArg,
    alternatives: Vec<Vec<Component>>,
) -> Result<Vec<Node>, DfsError> {
    let home = format!("{}/", crate::path::home(client.user()));
    let relative = !arg.as_str().starts_with('/');
    let mut found: Vec<Node> = Vec::new();
    for components in alternatives {
        for (absolute, status) in matches(client, &components).await? {
            let shown = match absolute.strip_prefix(&home) {
                Some(inside) if relative => inside.to_owned(),
                Some(_) | None => absolute.clone(),
            };
            found.push(Node { path: RemotePath { absolute, shown }, status });
        }
    }
    Ok(found)
}

/// Existing nodes that match all components. Holds the matches of one level at a time.
async fn matches(
    client: &DfsClient,
    components: &[Component],
) -> Result<Vec<(String, FileStatus)>, DfsError> {
    // A path without status is known only by name: it is asked for when it turns out to be the last.
    let mut level: Vec<(String, Option<FileStatus>)> = vec![(String::new(), None)];
    for component in components {
        let mut next = Vec::new();
        for (path, status) in level {
            if status.as_ref().is_some_and(|status| !status.is_dir()) {
                continue;
            }
            match component {
                Component::Name(name) => next.push((format!("{path}/{name}"), None)),
                Component::Pattern(pattern) => {
                    let directory = if path.is_empty() { "/" } else { &path };
                    for entry in entries_or_none(client, directory).await? {
                        if pattern.matches(entry.name()) {
                            next.push((format!("{path}/{}", entry.name()), Some(entry)));
                        }
                    }
                }
            }
        }
        level = next;
    }
    let mut found = Vec::with_capacity(level.len());
    for (path, status) in level {
        let path = if path.is_empty() { "/".to_owned() } else { path };
        match status {
            Some(status) => found.push((path, status)),
            None => match client.stat(&path).await {
                Ok(status) => found.push((path, status)),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            },
        }
    }
    Ok(found)
}

/// Entries of a directory; none if it is not there or not a directory.
async fn entries_or_none(client: &DfsClient, path: &str) -> Result<Vec<FileStatus>, DfsError> {
    match client.list(path).await {
        // A file lists itself.
        Ok(entries) => Ok(entries.into_iter().filter(|entry| entry.path != path).collect()),
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether an error only says that there is nothing of that name.
pub fn is_absent(error: &DfsError) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Attributes of a node; `None` if there is nothing of that name.
pub async fn stat_if_exists(client: &DfsClient, path: &RemotePath) -> Result<Option<FileStatus>, DfsError> {
    match client.stat(&path.absolute).await {
        Ok(status) => Ok(Some(status)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A directory that could not be listed.
#[derive(Debug)]
pub struct WalkError {
    /// The directory.
    pub path: RemotePath,
    /// Why.
    pub error: DfsError,
}

/// Everything below a directory, a directory before its entries, names in bytewise order. Holds one
/// page of entries a level.
pub struct Walk<'c> {
    client: &'c DfsClient,
    /// Directory whose listing starts with the next step.
    pending: Option<RemotePath>,
    levels: Vec<Level>,
}

struct Level {
    directory: RemotePath,
    entries: VecDeque<FileStatus>,
    /// Where the next page starts; `None` after the last.
    resume: Option<Bytes>,
}

impl<'c> Walk<'c> {
    /// Walks what is below `root`, which is not itself part of the walk.
    pub fn below(client: &'c DfsClient, root: RemotePath) -> Self {
        Self { client, pending: Some(root), levels: Vec::new() }
    }

    /// The next node. A directory that cannot be listed is told once and skipped.
    pub async fn next(&mut self) -> Option<Result<Node, WalkError>> {
        if let Some(directory) = self.pending.take() {
            match self.page(&directory, &[]).await {
                Ok((entries, resume)) => self.levels.push(Level { directory, entries, resume }),
                Err(error) => return Some(Err(WalkError { path: directory, error })),
            }
        }
        loop {
            let level = self.levels.last_mut()?;
            if let Some(status) = level.entries.pop_front() {
                let path = level.directory.child(status.name());
                if status.is_dir() {
                    self.pending = Some(path.clone());
                }
                return Some(Ok(Node { path, status }));
            }
            let Some(start_after) = level.resume.take() else {
                self.levels.pop();
                continue;
            };
            let directory = level.directory.clone();
            match self.page(&directory, &start_after).await {
                Ok((entries, resume)) => {
                    if let Some(level) = self.levels.last_mut() {
                        level.entries = entries;
                        level.resume = resume;
                    }
                }
                Err(error) => return Some(Err(WalkError { path: directory, error })),
            }
        }
    }

    async fn page(
        &self,
        directory: &RemotePath,
        start_after: &[u8],
    ) -> Result<(VecDeque<FileStatus>, Option<Bytes>), DfsError> {
        let page = self.client.list_page(&directory.absolute, start_after, LIST_PAGE_ENTRIES).await?;
        let resume = match page.entries.last() {
            Some(last) if page.has_more => Some(last.raw_name.clone()),
            Some(_) | None => None,
        };
        Ok((page.entries.into(), resume))
    }
}
