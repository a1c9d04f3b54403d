//! A rotation played step by step, as a rotation function would.

use jiff::{SignedDuration, Timestamp};

use super::{
    control::Control,
    error::ApiError,
    versions::{CURRENT, PENDING, SecretState, SecretValue},
};

/// A rotation in progress: the four steps of a rotation function, to be played in order.
pub struct Rotation {
    pub(super) control: Control,
    pub(super) arn: String,
    pub(super) version: String,
    /// The version that was current when it began.
    pub(super) from: Option<String>,
}

impl Rotation {
    /// The id of the new version.
    pub fn version_id(&self) -> &str {
        &self.version
    }

    /// `createSecret`: gives the placeholder its value; it stays AWSPENDING.
    pub fn create_secret(&self, value: impl Into<SecretValue>) -> Result<(), ApiError> {
        self.control
            .put_secret_version(&self.arn, &self.version, value, &[PENDING])
    }

    /// `setSecret`: the database learns the new value. Nothing moves in Secrets Manager.
    pub fn set_secret(&self) -> Result<(), ApiError> {
        self.check()
    }

    /// `testSecret`: the new value is tried. Nothing moves in Secrets Manager.
    pub fn test_secret(&self) -> Result<(), ApiError> {
        self.check()
    }

    /// `finishSecret`: the new version becomes AWSCURRENT, AWSPENDING goes. Refused if the rotation was abandoned: a
    /// value was put meanwhile.
    pub fn finish_secret(&self) -> Result<(), ApiError> {
        self.finish(true)
    }

    /// As [`Self::finish_secret`], but AWSPENDING stays on the new version, which means finished as well.
    pub fn finish_secret_keeping_pending(&self) -> Result<(), ApiError> {
        self.finish(false)
    }

    /// A step after the first needs the value that the first one put.
    fn check(&self) -> Result<(), ApiError> {
        let (_, secret) = self.control.secret(&self.arn)?;
        let state = secret.state().ok_or_else(ApiError::secret_not_found)?;
        self.in_progress(&state)
    }

    fn in_progress(&self, state: &SecretState) -> Result<(), ApiError> {
        state.select(Some(&self.version), Some(PENDING))?;
        if state.holder(CURRENT) != self.from.as_deref() {
            return Err(ApiError::request(
                "The rotation was abandoned: AWSCURRENT moved meanwhile.",
            ));
        }
        Ok(())
    }

    fn finish(&self, drop_pending: bool) -> Result<(), ApiError> {
        self.control.change(&self.arn, |state| {
            self.in_progress(state)?;
            state.move_label(CURRENT, Some(&self.version), self.from.as_deref())?;
            if drop_pending {
                state.move_label(PENDING, None, Some(&self.version))?;
            }
            // Whole seconds, as AWS keeps them.
            let now = Timestamp::now();
            state.rotation.last_rotated =
                Some(now - SignedDuration::from_nanos(i64::from(now.subsec_nanosecond())));
            Ok(())
        })
    }
}
