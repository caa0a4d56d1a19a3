//! `dfs-namenode backup`: a copy of the namespace in one file, from a running namenode or from a directory.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use dfs_proto::RpcError;
use dfs_proto::v1::CallContext;
use tonic::transport::Endpoint;

use super::backup_file::{BackupHeader, BackupReader, FrameEncoder, ReadError};
use super::error::MaintenanceError;
use crate::consensus::Offline;
use crate::log::BackupRequest;
use crate::log::backup_protocol_client::BackupProtocolClient;
use crate::service::wall_clock_ns;

/// Largest message of a backup's stream, far above what a namenode sends.
const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// A backup that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackedUp {
    /// The file.
    pub path: PathBuf,
    /// The state in it.
    pub header: BackupHeader,
    /// Rows.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Copies the namespace of the namenode at `address` while it serves. `to` is a file that does not exist, or a directory.
pub async fn from_namenode(address: &str, user: &str, to: &Path) -> Result<BackedUp, MaintenanceError> {
    let failed = |reason: String| MaintenanceError::Namenode { address: address.to_owned(), reason };
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|error| failed(error.to_string()))?;
    let channel = endpoint.connect().await.map_err(|error| failed(dfs_proto::error::one_line(&error)))?;
    let mut client = BackupProtocolClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let context = CallContext { user: user.to_owned(), ..CallContext::default() };
    let refused = |status: tonic::Status| failed(RpcError::from_status(&status).to_string());
    let answer = client.backup(BackupRequest { context: Some(context) }).await.map_err(refused)?;
    let mut stream = answer.into_inner();
    let mut file = NewFile::create(to)?;
    while let Some(chunk) = stream.message().await.map_err(refused)? {
        file.write(&chunk.data)?;
    }
    file.finish()
}

/// Copies the namespace of a directory that no namenode uses.
pub fn from_directory(dir: &Path, to: &Path) -> Result<BackedUp, MaintenanceError> {
    let (offline, _) = Offline::open(dir, false)?;
    let (txn, position) = offline.begin_backup()?;
    let header = BackupHeader::of(&position, wall_clock_ns());
    let mut parts = offline.stream_rows(txn)?;
    let mut file = NewFile::create(to)?;
    file.write(&header.encode())?;
    let mut encoder = FrameEncoder::new(&header);
    while let Some(part) = parts.blocking_recv() {
        file.write(&encoder.frame(&part))?;
    }
    match offline.failure() {
        Some(failure) => Err(MaintenanceError::Namenode {
            address: dir.display().to_string(),
            reason: dfs_proto::error::one_line(&*failure),
        }),
        None => file.finish(),
    }
}

/// A backup that is being written aside.
struct NewFile {
    file: File,
    aside: PathBuf,
    /// A file, or the directory in which it gets a name.
    to: PathBuf,
}

impl NewFile {
    fn create(to: &Path) -> Result<Self, MaintenanceError> {
        let aside = if to.is_dir() {
            to.join(format!("dfs-namenode-{}.tmp", std::process::id()))
        } else if to.exists() {
            return Err(MaintenanceError::Exists { path: to.to_owned() });
        } else {
            let mut name = to.as_os_str().to_owned();
            name.push(".tmp");
            PathBuf::from(name)
        };
        let file = File::create(&aside).map_err(|error| MaintenanceError::io(&aside, "create", error))?;
        Ok(Self { file, aside, to: to.to_owned() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), MaintenanceError> {
        self.file.write_all(bytes).map_err(|error| MaintenanceError::io(&self.aside, "write", error))
    }

    /// Reads back all of it, and gives it its name when it is on disk.
    fn finish(self) -> Result<BackedUp, MaintenanceError> {
        let io = |action| move |error| (action, error);
        let at = |(action, error)| MaintenanceError::io(&self.aside, action, error);
        self.file.sync_all().map_err(io("sync")).map_err(at)?;
        let bytes = self.file.metadata().map_err(io("stat")).map_err(at)?.len();
        let (header, rows) = verify(&self.aside)?;
        let path = match self.to.is_dir() {
            true => self.to.join(format!("dfs-namenode-{:020}-{}.backup", header.index, header.created_ns)),
            false => self.to.clone(),
        };
        fs::rename(&self.aside, &path).map_err(io("rename")).map_err(at)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| MaintenanceError::io(dir, "sync", error))?;
        Ok(BackedUp { path, header, rows, bytes })
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // It has another name if it is complete.
        let _ = fs::remove_file(&self.aside);
    }
}

/// Opens a backup for reading.
pub(super) fn open(path: &Path) -> Result<BackupReader<BufReader<File>>, MaintenanceError> {
    let file = File::open(path).map_err(|error| MaintenanceError::io(path, "open", error))?;
    BackupReader::open(BufReader::with_capacity(1 << 20, file)).map_err(|error| unreadable(path, error))
}

/// Says which backup cannot be read.
pub(super) fn unreadable(path: &Path, error: ReadError) -> MaintenanceError {
    match error {
        ReadError::Io(source) => MaintenanceError::io(path, "read", source),
        ReadError::Damaged { offset, reason } => {
            MaintenanceError::Damaged { path: path.to_owned(), offset, reason }
        }
    }
}

/// Reads all of a backup. Answers its header and its rows.
pub(super) fn verify(path: &Path) -> Result<(BackupHeader, u64), MaintenanceError> {
    let mut reader = open(path)?;
    while reader.next_part().map_err(|error| unreadable(path, error))?.is_some() {}
    Ok((reader.header(), reader.rows()))
}
