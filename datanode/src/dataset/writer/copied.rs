//! Copies of replicas keep their holes.

use super::ReplicaWriter;
use crate::error::{DatanodeError, disk};

/// Zeros that become a hole: a page of the file system.
const HOLE_BYTES: usize = 4096;

/// Whether a page shall be a hole. Looking at its first bytes answers for nearly all that are not.
fn is_hole(page: &[u8]) -> bool {
    page.iter().take(8).all(|byte| *byte == 0) && page.iter().all(|byte| *byte == 0)
}

impl ReplicaWriter {
    /// Writes verified data of a copy; pages of zeros become holes, as they were at the source or might have been.
    pub fn write_copied(&mut self, data: &[u8], offset: u64) -> Result<(), DatanodeError> {
        let mut from = 0;
        while from < data.len() {
            let pages = data[from..].chunks(HOLE_BYTES);
            let written = pages.take_while(|page| !is_hole(page)).map(<[u8]>::len).sum::<usize>();
            if written > 0 {
                self.write_data(&data[from..from + written], offset + from as u64)?;
            }
            from += written;
            from += data[from..]
                .chunks(HOLE_BYTES)
                .take_while(|page| is_hole(page))
                .map(<[u8]>::len)
                .sum::<usize>();
        }
        self.copied_end = self.copied_end.max(offset + data.len() as u64);
        Ok(())
    }

    /// A copy may end with a hole.
    pub(super) fn end_with_hole(&mut self) -> Result<(), DatanodeError> {
        let end = self.copied_end.min(self.length);
        if end > self.data_end {
            self.files.data.set_len(end).map_err(disk(&self.files.data_path))?;
            self.data_end = end;
        }
        Ok(())
    }
}
