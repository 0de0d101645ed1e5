"""What the traffic model knows of an hour: what the source says, and the clock."""


def build(rows):
    return rows.assign(hour=rows["at"].dt.hour, weekday=rows["at"].dt.weekday, weekend=rows["at"].dt.weekday >= 5)
