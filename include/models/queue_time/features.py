"""What the waiting-time model knows of an hour: what the source says, and the clock."""


def build(rows):
    return rows.assign(hour=rows["at"].dt.hour)
