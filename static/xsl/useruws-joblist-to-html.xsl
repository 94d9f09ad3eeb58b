<?xml version="1.0" encoding="UTF-8"?>
<!--
  A UWS 1.1 job list as a page: one row a job.

  The document's address is {base}/{service}/async or {base}/{service}/uws.xml. All links are relative to
  {base}/{service}/, so that the page works at both and behind any path prefix.
-->
<xsl:stylesheet version="1.0"
    xmlns:xsl="http://www.w3.org/1999/XSL/Transform"
    xmlns:uws="http://www.ivoa.net/xml/UWS/v1.0"
    xmlns:xlink="http://www.w3.org/1999/xlink"
    exclude-result-prefixes="uws xlink">

  <xsl:output method="html" encoding="UTF-8" doctype-system="about:legacy-compat" indent="yes"/>

  <xsl:template match="/uws:jobs">
    <html lang="en">
      <head>
        <meta name="viewport" content="width=device-width, initial-scale=1"/>
        <meta name="color-scheme" content="light dark"/>
        <title>Jobs</title>
        <link rel="stylesheet" href="../static/xsl/uws.css"/>
      </head>
      <body>
        <nav aria-label="Jobs by phase">
          <a href="async">All jobs</a>
          <xsl:text> </xsl:text><a href="async?PHASE=PENDING">Pending</a>
          <xsl:text> </xsl:text><a href="async?PHASE=QUEUED">Queued</a>
          <xsl:text> </xsl:text><a href="async?PHASE=EXECUTING">Executing</a>
          <xsl:text> </xsl:text><a href="async?PHASE=COMPLETED">Completed</a>
          <xsl:text> </xsl:text><a href="async?PHASE=ERROR">Failed</a>
          <xsl:text> </xsl:text><a href="async?PHASE=ABORTED">Aborted</a>
          <xsl:text> </xsl:text><a href="async?PHASE=ARCHIVED">Archived</a>
        </nav>
        <main>
          <h1 id="jobs">Jobs</h1>
          <xsl:choose>
            <xsl:when test="uws:jobref">
              <div class="scroll" role="region" aria-labelledby="jobs" tabindex="0">
                <table>
                  <thead>
                    <tr>
                      <th scope="col">Job</th>
                      <th scope="col">Phase</th>
                      <th scope="col">Run id</th>
                      <th scope="col">Owner</th>
                      <th scope="col">Created</th>
                    </tr>
                  </thead>
                  <tbody><xsl:apply-templates select="uws:jobref"/></tbody>
                </table>
              </div>
            </xsl:when>
            <xsl:otherwise><p>There are none here.</p></xsl:otherwise>
          </xsl:choose>
        </main>
      </body>
    </html>
  </xsl:template>

  <xsl:template match="uws:jobref">
    <xsl:variable name="url" select="@xlink:href"/>
    <tr>
      <th scope="row" class="id">
        <a>
          <xsl:attribute name="href">
            <xsl:choose>
              <!-- Anything else could be something that a browser would execute. -->
              <xsl:when test="starts-with($url, 'http://') or starts-with($url, 'https://')
                              or starts-with($url, '/')"><xsl:value-of select="$url"/></xsl:when>
              <xsl:otherwise><xsl:value-of select="concat('async/', @id)"/></xsl:otherwise>
            </xsl:choose>
          </xsl:attribute>
          <xsl:value-of select="@id"/>
        </a>
      </th>
      <td><span class="phase {uws:phase}"><xsl:value-of select="uws:phase"/></span></td>
      <td><xsl:value-of select="uws:runId"/></td>
      <td><xsl:value-of select="uws:ownerId"/></td>
      <td><xsl:apply-templates select="uws:creationTime[. != '']"/></td>
    </tr>
  </xsl:template>

  <xsl:template match="uws:creationTime">
    <time datetime="{.}"><xsl:value-of select="concat(translate(substring(., 1, 19), 'T', ' '), ' UTC')"/></time>
  </xsl:template>

</xsl:stylesheet>
