//! The types of conditions, the reasons they give, and the reasons of events.

use std::fmt;

/// The types of conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConditionType {
    /// A usable Secret exists as specified; for a store: its identity is proved.
    Ready,
    /// AWS was asked within the promise.
    Current,
    /// Rotations end in time.
    RotationHealthy,
    /// Workloads hold the present content.
    RestartsComplete,
}

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be told.
    Unknown,
}

macro_rules! words {
    ($(#[$outer:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident,)+ }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word as it is written.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Why a condition is what it is.
    Reason {
        /// The Secret is as AWS says.
        Synced,
        /// What is gone in AWS stays in the Secret, as the policy says.
        Retained,
        /// What is gone in AWS was deleted here, as the policy says.
        Deleted,
        /// What is gone in AWS would be deleted here, and a person has to confirm it.
        DeletionHeld,
        /// There is no Secret to merge into.
        TargetMissing,
        /// The store's identity is proved.
        Valid,
        /// So it is, and every namespace may read every key that it can.
        Unrestricted,
        /// The identity depends on the namespace; it is proved where it is used.
        PerNamespace,
        /// The spec cannot be followed.
        InvalidSpec,
        /// The store does not exist.
        StoreNotFound,
        /// The store's identity is not proved.
        StoreNotReady,
        /// The store does not admit the namespace.
        NamespaceNotAllowed,
        /// The store does not let the key be read.
        KeyNotAllowed,
        /// The identity cannot be had.
        IdentityError,
        /// IAM denies the read.
        AccessDenied,
        /// KMS denies the decryption.
        KeyAccessDenied,
        /// The secret does not exist.
        SecretNotFound,
        /// The secret is marked for deletion.
        MarkedForDeletion,
        /// The secret has no version at this stage, or not this version.
        StageNotFound,
        /// The value has no such property.
        PropertyNotFound,
        /// The value has no members.
        NothingFound,
        /// A search finds too much.
        TooManyMatches,
        /// The value is not of the form that is needed.
        InvalidValue,
        /// The template cannot be rendered.
        TemplateError,
        /// The Secret belongs to somebody else.
        TargetConflict,
        /// Another controller keeps changing the Secret.
        TargetContested,
        /// The Secret is immutable and would have to change.
        TargetImmutable,
        /// The Secret or its annotations would be too large.
        TooLarge,
        /// Kubernetes denies the write.
        Forbidden,
        /// AWS throttles, and no Secret exists yet.
        Throttled,
        /// AWS does not answer, and no Secret exists yet.
        ProviderUnavailable,
        /// AWS was asked within the promise.
        Checked,
        /// AWS was never asked for the object.
        NotChecked,
        /// Asking is suspended.
        Suspended,
        /// AWS could not be asked for longer than promised.
        Stale,
        /// No rotation is under way.
        Idle,
        /// A rotation, or a restart, is under way.
        InProgress,
        /// A rotation began and does not end.
        RotationStuck,
        /// The stages cannot be seen.
        StagesNotVisible,
        /// Nothing changed that asks for a restart.
        NothingPending,
        /// All workloads hold the present content.
        Complete,
        /// Workloads wait for their turn.
        Pending,
        /// Workloads wait for a window.
        WaitingForWindow,
        /// Restarts ended after failures.
        Halted,
        /// Somebody must approve.
        AwaitingApproval,
        /// Somebody took the restart back.
        Reverted,
        /// Another tool restarts these workloads.
        LeftToReloader,
        /// An entry of `restart.targets` stands for no workload.
        TargetNotFound,
    }
}

words! {
    /// Why an event is emitted.
    EventReason {
        /// What failed works again.
        Recovered,
        /// The Secret has new content from AWS.
        Updated,
        /// An edit of the Secret by hand was undone.
        DriftRepaired,
        /// What worked fails.
        SyncFailed,
        /// The Secret belongs to somebody else.
        TargetConflict,
        /// The Secret was deleted.
        Deleted,
        /// Many deletions at once wait for a person.
        DeletionHeld,
        /// A token that confirms no deletion that is held.
        ConfirmationRejected,
        /// A rotation ended.
        RotationCommitted,
        /// A rotation does not end.
        RotationStuck,
        /// A workload is restarted.
        RestartTriggered,
        /// A workload holds the new content.
        RestartCompleted,
        /// A workload did not become healthy.
        RestartFailed,
        /// Restarts ended after failures.
        RestartHalted,
        /// Somebody took a restart back.
        RestartReverted,
        /// An entry of `restart.targets` stands for no workload.
        TargetNotFound,
        /// A ClusterSecretStore lets every namespace read whatever its identity may read.
        Unrestricted,
    }
}

impl ConditionType {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Ready,
        Self::Current,
        Self::RotationHealthy,
        Self::RestartsComplete,
    ];

    /// The word as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Current => "Current",
            Self::RotationHealthy => "RotationHealthy",
            Self::RestartsComplete => "RestartsComplete",
        }
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Status {
    /// The word as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl Reason {
    /// The status that this reason gives a condition; `None` where the condition never gives it.
    pub const fn status(self, condition: ConditionType) -> Option<Status> {
        use ConditionType as C;
        let (of, status) = match self {
            Self::InProgress => match condition {
                C::RotationHealthy => (C::RotationHealthy, Status::True),
                _ => (C::RestartsComplete, Status::False),
            },
            Self::InvalidSpec => match condition {
                C::Ready | C::RotationHealthy | C::RestartsComplete => (condition, Status::False),
                C::Current => (C::Ready, Status::False),
            },
            Self::Synced
            | Self::Retained
            | Self::Deleted
            | Self::DeletionHeld
            | Self::TargetMissing
            | Self::Valid
            | Self::Unrestricted
            | Self::PerNamespace => (C::Ready, Status::True),
            Self::StoreNotFound
            | Self::StoreNotReady
            | Self::NamespaceNotAllowed
            | Self::KeyNotAllowed
            | Self::IdentityError
            | Self::AccessDenied
            | Self::KeyAccessDenied
            | Self::SecretNotFound
            | Self::MarkedForDeletion
            | Self::StageNotFound
            | Self::PropertyNotFound
            | Self::NothingFound
            | Self::TooManyMatches
            | Self::InvalidValue
            | Self::TemplateError
            | Self::TargetConflict
            | Self::TargetContested
            | Self::TargetImmutable
            | Self::TooLarge
            | Self::Forbidden
            | Self::Throttled
            | Self::ProviderUnavailable => (C::Ready, Status::False),
            Self::Checked => (C::Current, Status::True),
            Self::NotChecked => (C::Current, Status::Unknown),
            Self::Suspended | Self::Stale => (C::Current, Status::False),
            Self::Idle => (C::RotationHealthy, Status::True),
            Self::RotationStuck => (C::RotationHealthy, Status::False),
            Self::StagesNotVisible => (C::RotationHealthy, Status::Unknown),
            Self::NothingPending | Self::Complete => (C::RestartsComplete, Status::True),
            Self::Pending
            | Self::WaitingForWindow
            | Self::Halted
            | Self::AwaitingApproval
            | Self::Reverted
            | Self::LeftToReloader
            | Self::TargetNotFound => (C::RestartsComplete, Status::False),
        };
        if of as u8 == condition as u8 {
            Some(status)
        } else {
            None
        }
    }
}

impl EventReason {
    /// Whether a person should look: `Warning` rather than `Normal`.
    pub const fn is_warning(self) -> bool {
        match self {
            Self::SyncFailed
            | Self::TargetConflict
            | Self::DeletionHeld
            | Self::ConfirmationRejected
            | Self::RotationStuck
            | Self::RestartFailed
            | Self::RestartHalted
            | Self::RestartReverted
            | Self::TargetNotFound
            | Self::Unrestricted => true,
            Self::Recovered
            | Self::Updated
            | Self::DriftRepaired
            | Self::Deleted
            | Self::RotationCommitted
            | Self::RestartTriggered
            | Self::RestartCompleted => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_belongs_to_one_condition_but_for_in_progress_and_invalid_spec() {
        for reason in Reason::ALL {
            let of = ConditionType::ALL
                .iter()
                .filter(|condition| reason.status(**condition).is_some())
                .count();
            let expected = match reason {
                Reason::InProgress => 2,
                Reason::InvalidSpec => 3,
                _ => 1,
            };
            assert_eq!(of, expected, "{reason}");
        }
    }

    #[test]
    fn words_are_what_kubernetes_accepts_as_reasons() {
        // Condition.reason: at most 1024 characters of this form.
        let form = regex::Regex::new("^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$").unwrap();
        for word in Reason::ALL
            .iter()
            .map(|r| r.as_str())
            .chain(EventReason::ALL.iter().map(|r| r.as_str()))
        {
            assert!(form.is_match(word), "{word}");
        }
    }
}
