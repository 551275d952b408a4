"""The rest of what PySyft's stock flow asks of a connection, over the same exchange.

Not a benchmark by itself: `stock_flow` uses it. The owner's disaster recovery is left out (a stock
owner would also upload every event a second time), so the stock flow is shown at its cheapest.
"""

from __future__ import annotations

from syft.sync.events.file_change_event import FileChangeEventsMessageFileName
from syft.sync.messages.proposed_filechange import MessageFileName

from privnb.datasite.connection import ExchangeConnection, inbox_path, outbox_path
from privnb.datasite.envelope import MAX_ENVELOPE


class StockConnection(ExchangeConnection):
    def owner_download_next_raw_proposed_message_from_inbox(self, sender_email):
        folder = inbox_path(self._email, sender_email)
        names = sorted(
            (MessageFileName.from_string(name).submitted_timestamp, name)
            for name in self._exchange.names(*folder)
        )
        if not names:
            return None
        path = (*folder, names[0][1])
        return self._exchange.read(*path, limit=MAX_ENVELOPE), "/".join(path)

    def owner_remove_proposed_filechange_message_from_inbox(self, message):
        self._exchange.remove(*message.platform_id.split("/"))

    def watcher_get_outbox_file_metadatas(self, peer_email, since_timestamp):
        folder = outbox_path(peer_email, self._email)
        found = []
        for name in self._exchange.names(*folder):
            moment = FileChangeEventsMessageFileName.from_string(name).timestamp
            if since_timestamp is None or moment > since_timestamp:
                path = "/".join((*folder, name))
                found.append({"file_id": path, "file_name": name, "timestamp": moment})
        return sorted(found, key=lambda entry: entry["timestamp"])

    def download_file(self, file_id):
        return self._exchange.read(*file_id.split("/"), limit=MAX_ENVELOPE)

    def get_file_metadatas_from_folder(self, folder_id, since_timestamp=None, page_size=100):
        return []

    def reset_caches(self):
        pass

    def copy(self):
        return self

    def owner_list_collections(self, prefix):
        return []

    owner_list_all_collections_with_permissions = watcher_list_collections = owner_list_collections

    def owner_write_raw_bytes_to_syftbox(self, filename, data):
        return filename

    def owner_get_all_accepted_event_file_ids(self, since_timestamp=None):
        return []

    def owner_download_all_raw_events_from_syftbox(self):
        return []

    def download_raw_events_since_timestamp(self, since_timestamp):
        return []

    def get_events_count_since_checkpoint(self, timestamp):
        return 0

    def upload_raw_checkpoint(self, filename, data):
        return filename

    def download_raw_latest_checkpoint(self):
        return None

    def upload_raw_incremental_checkpoint(self, filename, data):
        return filename

    def download_all_raw_incremental_checkpoints(self):
        return []

    def get_incremental_checkpoint_count(self):
        return 0

    def get_next_incremental_sequence_number(self):
        return 1

    def delete_all_incremental_checkpoints(self):
        pass

    def upload_raw_rolling_state(self, filename, data):
        return filename

    def download_raw_rolling_state(self):
        return None

    def delete_rolling_state(self):
        pass
